// Command interop checks what the stock Go client promises its users, against the server that NAMESRV_ADDR names.
//
// Each check has its own topic and groups. The driver restarts the server when this prints "@restart", and says so with a
// line on standard input.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

const (
	patience = 90 * time.Second
	many     = 100_000
)

var (
	run    = strconv.FormatInt(time.Now().UnixMilli()%1_000_000_000, 36)
	server = primitive.NamesrvAddr{os.Getenv("NAMESRV_ADDR")}
	cx     = context.Background()
	serial atomic.Int64
	sender rocketmq.Producer
)

func main() {
	rlog.SetLogLevel("fatal")
	sender = newProducer()
	passed, failed := 0, 0
	for _, check := range []struct {
		name string
		body func()
	}{
		{"sync", sync_},
		{"async", async},
		{"oneway", oneway},
		{"batch", batch},
		{"large", large},
		{"compressed", compressed},
		{"tags", tags},
		{"conditions", conditions},
		{"orderly", orderly},
		{"dead letters", deadLetters},
		{"delays", delays},
		{"timers", timers},
		{"transactions", transactions},
		{"requests", requests},
		{"traces", traces},
		{"resets", resets},
		{"clustering", clustering},
		{"broadcasting", broadcasting},
		{"pull", pull},
		{"many", manyMessages},
		{"offsets over a client's restart", func() { offsets(false) }},
		{"offsets over the server's restart", func() { offsets(true) }},
	} {
		if len(os.Args) > 1 && !strings.Contains(strings.Join(os.Args[1:], ","), check.name) {
			continue
		}
		begin := time.Now()
		verdict := attempt(check.body)
		if verdict == "ok" {
			passed++
		} else {
			failed++
		}
		fmt.Printf("%s ... %s (%d ms)\n", check.name, verdict, time.Since(begin).Milliseconds())
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// failure is what a check panics with.
type failure string

func attempt(body func()) (verdict string) {
	defer func() {
		if cause := recover(); cause != nil {
			verdict = fmt.Sprintf("FAILED: %v", cause)
		}
	}()
	body()
	return "ok"
}

// ---- checks, in the order of main

func sync_() {
	topic := "go-sync-" + run
	wanted := map[string]string{}
	offsets := map[int]int64{}
	for i := range 100 {
		message := message(topic, "body é中 "+strconv.Itoa(i)).WithTag("tag" + strconv.Itoa(i%3)).WithKeys([]string{"key-" + strconv.Itoa(i)})
		message.WithProperty("number", strconv.Itoa(i))
		result := send(message)
		equal("queue offsets are dense", offsets[result.MessageQueue.QueueId], result.QueueOffset)
		offsets[result.MessageQueue.QueueId]++
		wanted[result.MsgID] = string(message.Body)
	}
	for _, got := range drain(topic, "*", 100) {
		number := got.GetProperty("number")
		equal("body", wanted[got.MsgId], string(got.Body))
		equal("number", "body é中 "+number, string(got.Body))
		equal("keys", "key-"+number, got.GetKeys())
	}
}

func async() {
	topic := "go-async-" + run
	send(message(topic, "first"))
	sendAll(topic, 1000, 64, func(i int) []byte { return []byte("async " + strconv.Itoa(i)) })
	equal("distinct bodies", 1001, len(bodies(drain(topic, "*", 1001))))
}

func oneway() {
	topic := "go-oneway-" + run
	send(message(topic, "first"))
	for i := range 100 {
		must(sender.SendOneWay(cx, message(topic, "oneway "+strconv.Itoa(i))))
	}
	equal("distinct bodies", 101, len(bodies(drain(topic, "*", 101))))
}

func batch() {
	topic := "go-batch-" + run
	for round := range 4 {
		var run []*primitive.Message
		for i := range 64 {
			one := message(topic, fmt.Sprintf("batch %d %d", round, i)).WithTag("even" + strconv.Itoa(i%2))
			one.WithProperty("n", strconv.Itoa(i))
			run = append(run, one)
		}
		result, err := sender.SendSync(cx, run...)
		must(err)
		equal("status", primitive.SendOK, result.Status)
	}
	got := drain(topic, "*", 256)
	equal("distinct bodies", 256, len(bodies(got)))
	for _, one := range got {
		equal("property of its own", strings.Fields(string(one.Body))[2], one.GetProperty("n"))
	}
	drain(topic, "even0", 128)
}

func large() {
	topic := "go-large-" + run
	body := make([]byte, 3_900_000)
	rand.New(rand.NewSource(7)).Read(body)
	send(primitive.NewMessage(topic, body))
	equal("body", true, bytes.Equal(body, drain(topic, "*", 1)[0].Body))
	if _, err := sender.SendSync(cx, primitive.NewMessage(topic, append(body, body...))); err == nil {
		panic(failure("a body over 4 MiB was accepted"))
	}
	send(message(topic, "the client lives on"))
}

func compressed() {
	topic := "go-compressed-" + run
	body := strings.Repeat("a body that is easy to compress; ", 30_000)
	send(message(topic, body))
	got := drain(topic, "*", 1)[0]
	equal("body", true, body == string(got.Body))
	equal("stored as it was sent, compressed", true, got.StoreSize < 400_000)
}

func tags() {
	topic := "go-tags-" + run
	// "Aa" and "BB" have one Java hash, by which the server filters; the client tells them apart
	names := []string{"A", "B", "C", "Aa", "BB"}
	for i := range 50 {
		send(message(topic, names[i%5]+" "+strconv.Itoa(i)).WithTag(names[i%5]))
	}
	for expression, count := range map[string]int{"A || C": 20, "Aa": 10, "B": 10, "*": 50} {
		for _, got := range drain(topic, expression, count) {
			equal(expression+" takes "+got.GetTags(), true, expression == "*" || strings.Contains(" "+expression+" ", " "+got.GetTags()+" "))
		}
	}
}

func conditions() {
	topic := "go-conditions-" + run
	for i := range 60 {
		one := message(topic, strconv.Itoa(i))
		one.WithProperty("n", strconv.Itoa(i))
		if i%3 == 0 {
			one.WithProperty("colour", "red")
		}
		send(one)
	}
	for expression, count := range map[string]int{"n BETWEEN 10 AND 19": 10, "colour IS NULL": 40, "colour = 'red' AND n > 29": 10} {
		inbox := &inbox{}
		stop := startSelecting(fmt.Sprintf("G-go-conditions-%s-%d", run, serial.Add(1)), topic,
			consumer.MessageSelector{Type: consumer.SQL92, Expression: expression}, taking(inbox.add))
		eventually("messages by "+expression, func() bool { return inbox.len() >= count })
		stop()
		equal("messages by "+expression, count, inbox.len())
	}
}

func orderly() {
	topic, group := "go-orderly-"+run, "G-go-orderly-"+run
	sent := 0
	more := func(count int) {
		for range count {
			send(message(topic, strconv.Itoa(sent)).WithShardingKey(strconv.Itoa(sent % 4)))
			sent++
		}
	}
	more(200)
	all, second := &inbox{}, &inbox{}
	stopFirst := start(group, topic, "*", all, consumer.WithConsumerOrder(true))
	eventually("alone it gets all", func() bool { return all.len() >= sent })
	stopSecond := startWith(group, topic, "*", func(message *primitive.MessageExt) {
		all.add(message)
		second.add(message)
	}, consumer.WithConsumerOrder(true))
	defer stopSecond()
	eventually("the one that joins gets some", func() bool {
		more(20)
		return second.len() > 0
	})
	eventually("together they get all", func() bool { return len(all.bodies()) == sent })
	stopFirst()
	more(40)
	eventually("the one that stays gets the rest", func() bool { return len(all.bodies()) == sent })
	next := map[int]int64{}
	for _, got := range all.all() {
		// a queue that changes hands may bring again what its first holder had not committed, but skips nothing
		if got.QueueOffset > next[got.Queue.QueueId] {
			panic(failure("order within a queue"))
		}
		next[got.Queue.QueueId] = max(next[got.Queue.QueueId], got.QueueOffset+1)
	}
}

// deadLetters has one message fail twice and do well the third time, and one fail until it is a dead letter.
func deadLetters() {
	topic, group := "go-dead-"+run, "G-go-dead-"+run
	bad := send(message(topic, "bad").WithTag("tag"))
	send(message(topic, "at last"))
	inbox, well := &inbox{}, &inbox{}
	stop := startSelecting(group, topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"},
		func(cx context.Context, batch ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			if concurrently, ok := primitive.GetConcurrentlyCtx(cx); ok {
				concurrently.DelayLevelWhenNextConsume = 1
			}
			inbox.add(batch[0])
			if batch[0].ReconsumeTimes == 2 && string(batch[0].Body) == "at last" {
				well.add(batch[0])
				return consumer.ConsumeSuccess, nil
			}
			return consumer.ConsumeRetryLater, nil
		}, consumer.WithMaxReconsumeTimes(2), consumer.WithConsumeMessageBatchMaxSize(1))
	defer stop()
	eventually("three attempts of each", func() bool { return inbox.len() == 6 && well.len() == 1 })
	var dead *primitive.MessageExt
	eventually("a dead letter", func() bool {
		return attempt(func() { dead = drain("%DLQ%"+group, "*", 1)[0] }) == "ok" // once its topic has a route
	})
	equal("body", "bad", string(dead.Body))
	equal("tag", "tag", dead.GetTags())
	equal("attempt", 3, dead.ReconsumeTimes)
	equal("where it came from", topic, dead.GetProperty(primitive.PropertyRetryTopic))
	equal("its key", bad.MsgID, dead.GetProperty(primitive.PropertyUniqueClientMessageIdKeyIndex))
}

func delays() {
	topic := "go-delays-" + run
	var came sync.Map
	send(message(topic, "begin"))
	stop := startWith("G-go-delays-"+run, topic, "*", func(message *primitive.MessageExt) {
		came.LoadOrStore(string(message.Body), time.Now())
	})
	defer stop()
	waits := []time.Duration{0, time.Second, 5 * time.Second, 10 * time.Second}
	begin := time.Now()
	for level := len(waits) - 1; level >= 0; level-- {
		send(message(topic, strconv.Itoa(level)).WithDelayTimeLevel(level))
	}
	for level, wait := range waits {
		eventually("one comes", func() bool { _, ok := came.Load(strconv.Itoa(level)); return ok })
		at, _ := came.Load(strconv.Itoa(level))
		equal(fmt.Sprintf("level %d is not early", level), true, at.(time.Time).Sub(begin) >= wait)
	}
}

// timers asks for times by the properties, of which this client sets one by itself.
func timers() {
	topic := "go-timers-" + run
	send(message(topic, "begin"))
	now := time.Now().UnixMilli()
	for _, row := range []struct {
		name, value string
		wait        int64
	}{
		{"TIMER_DELAY_SEC", "2", 2000},
		{"TIMER_DELAY_MS", "2600", 2600},
		{primitive.PropertyTimerDeliverMS, strconv.FormatInt(now+3300, 10), 3300},
	} {
		one := message(topic, row.name)
		one.WithProperty(row.name, row.value)
		one.WithProperty("due", strconv.FormatInt(now+row.wait, 10))
		send(one)
	}
	for _, got := range drain(topic, "*", 4) {
		if due, err := strconv.ParseInt(got.GetProperty("due"), 10, 64); err == nil && got.StoreTimestamp < due {
			panic(failure(fmt.Sprintf("%s is early by %d ms", got.Body, due-got.StoreTimestamp)))
		}
	}
}

// transactions ends some messages at once, and others when the broker asks.
func transactions() {
	topic := "go-transactions-" + run
	send(message(topic, "begin"))
	ends := &ends{asked: map[string]int{}}
	made, err := rocketmq.NewTransactionProducer(ends, producer.WithNameServer(server), producer.WithGroupName("P-"+topic),
		producer.WithInstanceName(topic), producer.WithRetry(0), producer.WithSendMsgTimeout(30*time.Second))
	must(err)
	must(made.Start())
	defer made.Shutdown()
	ids := map[string]string{}
	for _, body := range []string{"commit", "rollback", "commit when asked", "rollback when asked", "commit when asked again"} {
		result, err := made.SendMessageInTransaction(cx, message(topic, body))
		must(err)
		equal("status", primitive.SendOK, result.Status)
		ids[body] = result.MsgID
	}
	eventually("it is asked, and again", func() bool {
		return ends.times("commit when asked again") >= 2 && ends.times("rollback when asked") > 0
	})
	got := drain(topic, "*", 4)
	equal("committed", "map[begin:true commit:true commit when asked:true commit when asked again:true]", fmt.Sprint(bodies(got)))
	for _, one := range got {
		if id, ok := ids[string(one.Body)]; ok {
			equal("id", id, one.MsgId)
		}
	}
}

// ends says what becomes of a half message by its body.
type ends struct {
	lock  sync.Mutex
	asked map[string]int
}

func (ends *ends) ExecuteLocalTransaction(message *primitive.Message) primitive.LocalTransactionState {
	switch string(message.Body) {
	case "commit":
		return primitive.CommitMessageState
	case "rollback":
		return primitive.RollbackMessageState
	}
	return primitive.UnkonwnState
}

func (ends *ends) CheckLocalTransaction(message *primitive.MessageExt) primitive.LocalTransactionState {
	body := string(message.Body)
	ends.lock.Lock()
	defer ends.lock.Unlock()
	ends.asked[body]++
	switch {
	case strings.HasSuffix(body, "again") && ends.asked[body] == 1:
		return primitive.UnkonwnState
	case strings.HasPrefix(body, "commit"):
		return primitive.CommitMessageState
	}
	return primitive.RollbackMessageState
}

func (ends *ends) times(body string) int {
	ends.lock.Lock()
	defer ends.lock.Unlock()
	return ends.asked[body]
}

// requests waits for the reply of a consumer; the server can push it once it knows who asked, so one asks again.
func requests() {
	topic := "go-requests-" + run
	send(message(topic, "begin"))
	stop := startWith("G-go-requests-"+run, topic, "*", func(asked *primitive.MessageExt) {
		if consumer.GetReplyToClient(asked) == "" {
			return
		}
		reply, err := consumer.CreateReplyMessage(asked, nil)
		must(err)
		reply.Body = []byte("re: " + string(asked.Body))
		sender.SendSync(cx, reply)
	})
	defer stop()
	for i := range 5 {
		body := "request " + strconv.Itoa(i)
		eventually("a reply to "+body, func() bool {
			reply, err := sender.Request(cx, 5*time.Second, message(topic, body))
			return err == nil && string(reply.Body) == "re: "+body
		})
	}
}

// traces finds what producer and consumer wrote of a message into the trace topic.
func traces() {
	topic := "go-traces-" + run
	send(message(topic, "begin"))
	config := &primitive.TraceConfig{GroupName: "P-" + topic, Access: primitive.Local, NamesrvAddrs: server}
	made, err := rocketmq.NewProducer(producer.WithNameServer(server), producer.WithGroupName("P-"+topic),
		producer.WithInstanceName(topic), producer.WithRetry(2), producer.WithSendMsgTimeout(30*time.Second), producer.WithTrace(config))
	must(err)
	must(made.Start())
	defer made.Shutdown()
	records := &inbox{}
	defer start("G-"+topic, topic, "*", &inbox{}, consumer.WithTrace(config))()
	defer start("G-traces-"+run, "RMQ_SYS_TRACE_TOPIC", "*", records)()
	// a client does not send a trace again that the broker did not take in time
	ids, next := []string{}, time.Now()
	eventually("the send and the consumption of one are traced", func() bool {
		if time.Now().After(next) {
			sent, err := made.SendSync(cx, message(topic, "traced"))
			must(err)
			ids, next = append(ids, sent.MsgID), time.Now().Add(10*time.Second)
		}
		for _, id := range ids {
			found := map[string]bool{}
			for body := range records.bodies() {
				for _, record := range strings.Split(body, "\x02") {
					if fields := strings.Split(record, "\x01"); strings.Contains(record, id) {
						found[fields[0]] = true
					}
				}
			}
			if found["Pub"] && found["SubBefore"] && found["SubAfter"] {
				return true
			}
		}
		return false
	})
}

// resets sends a group back to the beginning while it consumes, and to the end while it does not.
func resets() {
	topic, group := "go-resets-"+run, "G-go-resets-"+run
	var last *primitive.SendResult
	for i := range 20 {
		last = send(message(topic, "old "+strconv.Itoa(i)))
	}
	first := &inbox{}
	stop := start(group, topic, "*", first)
	eventually("all of them", func() bool { return len(first.bodies()) == 20 })
	reset(last, topic, group, 0)
	eventually("all of them again", func() bool { return first.len() >= 40 })
	stop()
	for i := range 20 {
		last = send(message(topic, "skipped "+strconv.Itoa(i)))
	}
	reset(last, topic, group, -1)
	later := &inbox{}
	defer start(group, topic, "*", later)()
	for i := range 20 {
		send(message(topic, "fresh "+strconv.Itoa(i)))
	}
	eventually("what came later", func() bool { return len(later.bodies()) >= 20 })
	equal("of those that were skipped", false, later.bodies()["skipped 0"])
}

// reset asks the broker that took the message, as this client has no administrator: its address begins the message's id.
func reset(sent *primitive.SendResult, topic, group string, timestamp int) {
	id, err := hex.DecodeString(sent.OffsetMsgID[:16])
	must(err)
	socket, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: id[:4], Port: int(binary.BigEndian.Uint32(id[4:]))})
	must(err)
	defer socket.Close()
	header, err := json.Marshal(map[string]any{"code": 222, "flag": 0, "language": "GO", "opaque": 1, "version": 317,
		"extFields": map[string]string{"topic": topic, "group": group, "timestamp": strconv.Itoa(timestamp), "isForce": "true"}})
	must(err)
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(header)+4))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(header)))
	_, err = socket.Write(append(frame, header...))
	must(err)
	var lengths [8]byte
	_, err = io.ReadFull(socket, lengths[:])
	must(err)
	answer := make([]byte, binary.BigEndian.Uint32(lengths[4:])&0xffffff)
	_, err = io.ReadFull(socket, answer)
	must(err)
	var said struct {
		Code   int
		Remark string
	}
	must(json.Unmarshal(answer, &said))
	equal("reset: "+said.Remark, 0, said.Code)
}

func clustering() {
	topic, group := "go-clustering-"+run, "G-go-clustering-"+run
	total := 0
	more := func(count int) {
		for range count {
			total++
			send(message(topic, strconv.Itoa(total)))
		}
	}
	more(40)
	first, second := &inbox{}, &inbox{}
	stopFirst := start(group, topic, "*", first)
	defer stopFirst()
	eventually("alone it gets all", func() bool { return len(first.bodies()) == total })
	stopSecond := start(group, topic, "*", second)
	eventually("the one that joins gets some", func() bool {
		more(8)
		return second.len() > 0
	})
	eventually("together they get all", func() bool { return len(union(first, second)) == total })
	stopSecond()
	before := first.len()
	more(40)
	eventually("the one that stays gets the rest", func() bool { return first.len() >= before+40 })
	eventually("nothing is lost", func() bool { return len(union(first, second)) == total })
}

func broadcasting() {
	topic, group := "go-broadcasting-"+run, "G-go-broadcasting-"+run
	for i := range 8 {
		send(message(topic, "before "+strconv.Itoa(i)))
	}
	first, second := &inbox{}, &inbox{}
	for _, one := range []*inbox{first, second} {
		defer start(group, topic, "*", one, consumer.WithConsumerModel(consumer.BroadCasting))()
	}
	for i := range 100 {
		send(message(topic, strconv.Itoa(i)))
	}
	eventually("the first gets all", func() bool { return len(first.bodies()) == 108 })
	eventually("the second gets all", func() bool { return len(second.bodies()) == 108 })
	equal("each once", 216, first.len()+second.len())
}

func pull() {
	topic := "go-pull-" + run
	for i := range 100 {
		send(message(topic, strconv.Itoa(i)))
	}
	puller, err := rocketmq.NewPullConsumer(consumer.WithGroupName("G-go-pull-"+run), consumer.WithNameServer(server),
		consumer.WithInstance("pull-"+run), consumer.WithPullBatchSize(10))
	must(err)
	must(puller.Assign(topic, nil))
	must(puller.Start())
	defer puller.Shutdown()
	queues, err := puller.GetTopicRouteInfo(topic)
	must(err)
	equal("queues", 4, len(queues))
	all := map[string]bool{}
	for _, queue := range queues {
		// it would wait at the end of a queue
		for at, end := int64(0), int64(1); at < end; {
			result, err := puller.PullFrom(cx, queue, at, 7)
			must(err)
			equal("status", primitive.PullFound, result.Status)
			end = result.MaxOffset
			for _, got := range result.GetMessageExts() {
				all[string(got.Body)] = true
			}
			at = result.NextBeginOffset
		}
	}
	equal("all by pull", 100, len(all))
	one := queues[0]
	puller.SeekOffset(one, 5)
	must(puller.Assign(topic, []*primitive.MessageQueue{one}))
	seen := map[int64]bool{}
	eventually("twenty after the seek", func() bool {
		request, err := puller.Poll(cx, time.Second)
		if err == nil {
			for _, got := range request.GetMsgList() {
				seen[got.QueueOffset] = true
			}
			puller.ACK(cx, request, consumer.ConsumeSuccess)
		}
		return len(seen) >= 20
	})
	equal("from where it was sought", true, seen[5] && seen[24] && !seen[4])
}

func manyMessages() {
	topic, group := "go-many-"+run, "G-go-many-"+run
	for range 4 {
		send(primitive.NewMessage(topic, binary.BigEndian.AppendUint32(nil, many)))
	}
	times := make([]atomic.Int32, many+1)
	var distinct, duplicates atomic.Int64
	stop := startWith(group, topic, "*", func(got *primitive.MessageExt) {
		number := binary.BigEndian.Uint32(got.Body)
		if number == many {
			return
		}
		if times[number].Add(1) == 1 {
			distinct.Add(1)
		} else {
			duplicates.Add(1)
		}
	})
	defer stop()
	sendAll(topic, many, 256, func(i int) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, 124)...)
	})
	eventually("all arrive", func() bool { return distinct.Load() == many })
	equal("duplicates", int64(0), duplicates.Load())
}

func offsets(restartServer bool) {
	topic, group := fmt.Sprintf("go-offsets-%v-%s", restartServer, run), fmt.Sprintf("G-go-offsets-%v-%s", restartServer, run)
	some := func(prefix string, count int) {
		for i := range count {
			send(message(topic, prefix+strconv.Itoa(i)))
		}
	}
	some("old", 40)
	before := &inbox{}
	stop := start(group, topic, "*", before)
	eventually("consumed before", func() bool { return len(before.bodies()) == 40 })
	stop()
	some("fresh", 10)
	if restartServer {
		must(sender.Shutdown())
		fmt.Println("@restart")
		var line [1]byte
		if _, err := os.Stdin.Read(line[:]); err != nil {
			panic(failure("the driver went away"))
		}
		sender = newProducer()
		some("after", 10)
	}
	wanted := map[bool]int{false: 10, true: 20}[restartServer]
	after := &inbox{}
	defer start(group, topic, "*", after)()
	eventually("goes on where it stopped", func() bool { return len(after.bodies()) >= wanted })
	equal("nothing again", wanted, after.len())
	drain(topic, "*", 40+wanted)
}

// ---- what the checks are written in

func newProducer() rocketmq.Producer {
	made, err := rocketmq.NewProducer(producer.WithNameServer(server), producer.WithGroupName("P-go-"+run),
		producer.WithInstanceName(fmt.Sprintf("producer-%s-%d", run, serial.Add(1))), producer.WithRetry(2),
		producer.WithSendMsgTimeout(30*time.Second))
	must(err)
	must(made.Start())
	return made
}

func message(topic, body string) *primitive.Message {
	return primitive.NewMessage(topic, []byte(body))
}

// send fails unless the server took the message; while a restarted server is not routed yet it tries again.
func send(message *primitive.Message) *primitive.SendResult {
	var result *primitive.SendResult
	var err error
	deadline := time.Now().Add(patience)
	for {
		result, err = sender.SendSync(cx, message)
		if err == nil || time.Now().After(deadline) || len(message.Body) > 1<<20 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	must(err)
	equal("status", primitive.SendOK, result.Status)
	return result
}

// sendAll sends `count` messages, `window` at a time in flight; one refused as busy was not stored and is sent again.
func sendAll(topic string, count, window int, body func(int) []byte) {
	free := make(chan struct{}, window)
	var wrong atomic.Value
	var left sync.WaitGroup
	left.Add(count)
	var one func(i int)
	one = func(i int) {
		err := sender.SendAsync(cx, func(_ context.Context, result *primitive.SendResult, err error) {
			if err != nil && strings.Contains(err.Error(), "broker busy") {
				go one(i)
				return
			}
			if err != nil {
				wrong.Store(err.Error())
			} else if result.Status != primitive.SendOK {
				wrong.Store(result.String())
			}
			<-free
			left.Done()
		}, primitive.NewMessage(topic, body(i)))
		if err != nil {
			wrong.Store(err.Error())
			<-free
			left.Done()
		}
	}
	for i := range count {
		free <- struct{}{}
		one(i)
	}
	left.Wait()
	if cause := wrong.Load(); cause != nil {
		panic(failure(fmt.Sprint("async send: ", cause)))
	}
}

// start runs a push consumer that keeps what it gets, and returns how to stop it.
func start(group, topic, expression string, keep *inbox, options ...consumer.Option) func() {
	return startWith(group, topic, expression, keep.add, options...)
}

func startWith(group, topic, expression string, take func(*primitive.MessageExt), options ...consumer.Option) func() {
	return startSelecting(group, topic, consumer.MessageSelector{Type: consumer.TAG, Expression: expression}, taking(take), options...)
}

// listener is what a push consumer calls.
type listener = func(context.Context, ...*primitive.MessageExt) (consumer.ConsumeResult, error)

func taking(take func(*primitive.MessageExt)) listener {
	return func(_ context.Context, batch ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, one := range batch {
			take(one)
		}
		return consumer.ConsumeSuccess, nil
	}
}

func startSelecting(group, topic string, selector consumer.MessageSelector, listen listener, options ...consumer.Option) func() {
	options = append(options, consumer.WithGroupName(group), consumer.WithNameServer(server),
		consumer.WithInstance(fmt.Sprintf("%s-%d", group, serial.Add(1))), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	made, err := rocketmq.NewPushConsumer(options...)
	must(err)
	must(made.Subscribe(topic, selector, listen))
	must(made.Start())
	return func() { must(made.Shutdown()) }
}

// drain reads a topic with a new group until `count` messages came, and fails on one more.
func drain(topic, expression string, count int) []*primitive.MessageExt {
	inbox := &inbox{}
	stop := start(fmt.Sprintf("G-go-drain-%s-%d", run, serial.Add(1)), topic, expression, inbox)
	defer stop()
	eventually(fmt.Sprintf("%d of %s by %s", count, topic, expression), func() bool { return inbox.len() >= count })
	equal("messages of "+topic+" by "+expression, count, inbox.len())
	return inbox.all()
}

func eventually(what string, holds func() bool) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	panic(failure("not in time: " + what))
}

func must(err error) {
	if err != nil {
		panic(failure(err.Error()))
	}
}

func equal[T comparable](what string, wanted, got T) {
	if wanted != got {
		panic(failure(fmt.Sprintf("%s: wanted %v, got %v", what, wanted, got)))
	}
}

// inbox keeps what a consumer was handed.
type inbox struct {
	lock     sync.Mutex
	messages []*primitive.MessageExt
}

func (inbox *inbox) add(message *primitive.MessageExt) {
	inbox.lock.Lock()
	defer inbox.lock.Unlock()
	inbox.messages = append(inbox.messages, message)
}

func (inbox *inbox) all() []*primitive.MessageExt {
	inbox.lock.Lock()
	defer inbox.lock.Unlock()
	return append([]*primitive.MessageExt(nil), inbox.messages...)
}

func (inbox *inbox) len() int {
	return len(inbox.all())
}

func (inbox *inbox) bodies() map[string]bool {
	return bodies(inbox.all())
}

func bodies(messages []*primitive.MessageExt) map[string]bool {
	set := map[string]bool{}
	for _, message := range messages {
		set[string(message.Body)] = true
	}
	return set
}

func union(inboxes ...*inbox) map[string]bool {
	set := map[string]bool{}
	for _, inbox := range inboxes {
		for body := range inbox.bodies() {
			set[body] = true
		}
	}
	return set
}
