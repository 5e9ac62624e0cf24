import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.compression.CompressorFactory;

/** Writes one text into a folder as the original's classes compress it, in each way that there is. */
public final class Bodies {
    public static void main(String[] args) throws Exception {
        Path folder = Files.createDirectories(Paths.get(args[0]));
        StringBuilder text = new StringBuilder();
        for (int line = 0; line < 2_000; line++) {
            text.append("line ").append(line).append(" of the body\n");
        }
        byte[] body = text.toString().getBytes(StandardCharsets.UTF_8);
        for (CompressionType type : CompressionType.values()) {
            String name = "body." + type.name().toLowerCase();
            Files.write(folder.resolve(name), CompressorFactory.getCompressor(type).compress(body, 5));
        }
    }
}
