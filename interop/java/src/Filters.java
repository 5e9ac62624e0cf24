import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.parser.SelectorParser;

/**
 * Writes into a file what the original's SQL92 classes say of the expressions in it.
 *
 * A line "map" holds the properties of a message; any other line is an expression behind a letter per map: T true,
 * F false, N null, E an exception; or "refused". What follows the line "# random" is made anew from the seed there.
 */
public final class Filters {
    static final String RANDOM = "# random, seed ";

    public static void main(String[] args) throws Exception {
        Path file = Paths.get(args[0]);
        List<Map<String, String>> maps = new ArrayList<>();
        List<String> out = new ArrayList<>();
        for (String line : Files.readAllLines(file, StandardCharsets.US_ASCII)) {
            if (line.startsWith("map")) {
                maps.add(map(line));
                out.add(line);
            } else if (line.isEmpty() || line.startsWith("#")) {
                out.add(line);
            } else {
                String expression = line.substring(line.indexOf('\t') + 1);
                out.add(verdicts(unescape(expression), maps) + "\t" + expression);
            }
            if (line.startsWith(RANDOM)) {
                String[] words = line.substring(RANDOM.length()).split(", ");
                Maker maker = new Maker(new Random(Long.parseLong(words[0])));
                for (int i = Integer.parseInt(words[1]); i > 0; i--) {
                    String expression = maker.expression();
                    out.add(verdicts(expression, maps) + "\t" + escape(expression));
                }
                break;
            }
        }
        Files.write(file, out, StandardCharsets.US_ASCII);
    }

    static Map<String, String> map(String line) {
        Map<String, String> map = new HashMap<>();
        String[] parts = line.split("\t");
        for (int i = 1; i < parts.length; i++) {
            int at = parts[i].indexOf('=');
            map.put(unescape(parts[i].substring(0, at)), unescape(parts[i].substring(at + 1)));
        }
        return map;
    }

    static String verdicts(String text, List<Map<String, String>> maps) {
        Expression expression;
        try {
            expression = SelectorParser.parse(text);
        } catch (Throwable refusal) {
            return "refused";
        }
        StringBuilder verdicts = new StringBuilder();
        for (Map<String, String> map : maps) {
            try {
                Object verdict = expression.evaluate(new Context(map));
                verdicts.append(verdict == null ? 'N' : (Boolean) verdict ? 'T' : 'F');
            } catch (Throwable raised) {
                verdicts.append('E');
            }
        }
        return verdicts.toString();
    }

    static String unescape(String text) {
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c != '\\') {
                out.append(c);
                continue;
            }
            c = text.charAt(++i);
            if (c == 'u') {
                out.append((char) Integer.parseInt(text.substring(i + 1, i + 5), 16));
                i += 4;
            } else {
                out.append(c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 'f' ? '\f' : c);
            }
        }
        return out.toString();
    }

    static String escape(String text) {
        StringBuilder out = new StringBuilder();
        for (char c : text.toCharArray()) {
            if (c == '\\') {
                out.append("\\\\");
            } else if (c < ' ' || c > '~') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.toString();
    }

    static final class Context implements EvaluationContext {
        final Map<String, String> map;

        Context(Map<String, String> map) {
            this.map = map;
        }

        @Override
        public Object get(String name) {
            return map.get(name);
        }

        @Override
        public Map<String, Object> keyValues() {
            return new HashMap<>(map);
        }
    }

    /** Makes expressions by the grammar, and breaks some of them. */
    static final class Maker {
        final Random random;

        Maker(Random random) {
            this.random = random;
        }

        String expression() {
            String made = condition(4);
            if (random.nextInt(5) > 0) {
                return made;
            }
            List<String> words = new ArrayList<>(java.util.Arrays.asList(made.split(" ")));
            int at = random.nextInt(words.size());
            switch (random.nextInt(3)) {
                case 0:
                    words.remove(at);
                    break;
                case 1:
                    words.add(at, words.get(random.nextInt(words.size())));
                    break;
                default:
                    words.set(at, pick("(", ")", "NOT", "-", "=", ",", "'", "IS", "%", "--", "/*", "007", "a.b", "LIKE"));
            }
            return String.join(" ", words);
        }

        String condition(int depth) {
            if (depth == 0) {
                return simple(0);
            }
            switch (random.nextInt(6)) {
                case 0:
                    return condition(depth - 1) + " " + pick("AND", "and", "OR", "or") + " " + condition(depth - 1);
                case 1:
                    return "( " + condition(depth - 1) + " ) " + pick("AND", "OR") + " " + condition(depth - 1);
                case 2:
                    return "NOT ( " + condition(depth - 1) + " )";
                case 3:
                    return "NOT " + name() + " " + pick("=", "<>") + " " + operand(depth - 1);
                default:
                    return simple(depth);
            }
        }

        String simple(int depth) {
            String not = random.nextInt(3) == 0 ? "NOT " : "";
            switch (random.nextInt(7)) {
                case 0:
                    return operand(depth) + " " + pick("IS NULL", "IS NOT NULL", "is not null");
                case 1:
                    return operand(depth) + " " + not + pick("CONTAINS", "STARTSWITH", "endswith") + " " + string();
                case 2:
                    return operand(depth) + " " + not + "BETWEEN " + operand(0) + " AND " + operand(0);
                case 3:
                    return name() + " " + not + "IN ( " + string() + " , " + string() + " )";
                default:
                    return operand(depth) + " " + pick("=", "<>", ">", ">=", "<", "<=", "=") + " " + operand(depth);
            }
        }

        String operand(int depth) {
            switch (random.nextInt(10)) {
                case 0:
                case 1:
                case 2:
                case 3:
                    return name();
                case 4:
                case 5:
                    return pick("0", "1", "5", "05", "7L", "2147483647", "2147483648", "9223372036854775807");
                case 6:
                    return pick("1.5", ".5", "5.", "5e0", "1E10", "2147483647.5");
                case 7:
                    return string();
                case 8:
                    return pick("TRUE", "FALSE", "NULL", "true");
                default:
                    return depth == 0 ? "- " + pick("5", "1.5", "int") : "( " + condition(depth - 1) + " )";
            }
        }

        String name() {
            return pick("int", "big", "real", "text", "yes", "no", "none", "odd");
        }

        String string() {
            return pick("''", "'5'", "'abc'", "'b'", "'it''s'", "'true'", "'1e1'", "'\u00e9'");
        }

        String pick(String... all) {
            return all[random.nextInt(all.length)];
        }
    }
}
