//! Golden bytes: what real clients and servers of 4.9.7 and 5.5.0 sent and stored
//! (`fixtures/README.md`) is decoded, written again, and must be the same.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::body::client::HeartbeatData;
use wire::body::group::{
    ConsumeStats, ConsumerOffsetTable, SubscriptionGroupConfig, SubscriptionGroupTable,
};
use wire::body::lock::{LockBatch, LockBatchResponse};
use wire::body::register::RegisterBrokerBody;
use wire::body::route::{ClusterInfo, TopicRouteData};
use wire::body::topic::{TopicConfig, TopicConfigTable, TopicStatsTable};
use wire::body::{ConsumerIdList, KvTable, TopicList};
use wire::code::{RequestCode, ResponseCode};
use wire::ext::Ext;
use wire::fastjson::{self, Value};
use wire::frame::{Codec, FRAME_BYTES_MAX, Frame};
use wire::header::{client, group, namesrv, offset, pull, send, topic};
use wire::record::{self, CheckCrc, Head, Record};

/// A recorded request with its response, if it has one.
struct Exchange {
    path: PathBuf,
    /// Whether both sides were of 5.5.0, whose structs ours are.
    is_of_5_5: bool,
    frames: Vec<Frame>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// All files below `folder`, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the fixtures are there") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no fixtures below {}", folder.display());
    found
}

fn exchanges() -> Vec<Exchange> {
    let read = |path: PathBuf| {
        let mut bytes = BytesMut::from(&fs::read(&path).expect("a readable file")[..]);
        let mut frames = Vec::new();
        while let Some(whole) = Frame::split(&mut bytes, FRAME_BYTES_MAX).expect("good frames") {
            frames.push(Frame::decode(whole).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        }
        assert!(bytes.is_empty(), "{}", path.display());
        let is_of_5_5 = path.to_string_lossy().contains("/5.5.0-");
        Exchange { path, is_of_5_5, frames }
    };
    files(&fixtures().join("frames")).into_iter().map(read).collect()
}

fn gunzipped(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut input = flate2::read::GzDecoder::new(fs::File::open(path).expect("a readable file"));
    input.read_to_end(&mut bytes).expect("good gzip");
    bytes
}

#[test]
fn frames_are_written_as_they_came() {
    for exchange in exchanges() {
        let name = exchange.path.display();
        let mut bytes = BytesMut::from(&fs::read(&exchange.path).expect("a readable file")[..]);
        for frame in &exchange.frames {
            let original = Frame::split(&mut bytes, FRAME_BYTES_MAX).expect("good").expect("whole");
            let mut again = BytesMut::new();
            frame.encode(&mut again);
            // 5.5.0 writes an empty object of ext fields where others write none.
            let original = String::from_utf8_lossy(&original[4..]).replace("\"extFields\":{},", "");
            assert_eq!(String::from_utf8_lossy(&again[8..]), original, "{name}");
            let is_binary = name.to_string().contains("-binary/");
            assert_eq!(frame.codec == Codec::Binary, is_binary, "{name}");
        }
    }
}

/// Fields of `RpcRequestHeader` and of hooks, which no struct of ours has.
const INHERITED: [&str; 8] = ["ns", "nsd", "bname", "oway", "lo", "ReqT", "MSG_REGION", "TRACE_ON"];

/// Reads the header `H` and writes it; all that came must be there again.
fn check_header<'a, H>(exchange: &Exchange, frame: &'a Frame)
where
    H: Serialize + serde::Deserialize<'a>,
{
    let name = exchange.path.display();
    let header: H = frame.header().unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut ext = Ext::default();
    ext.put_header(&header);
    for (field, value) in frame.ext.iter().filter(|(field, _)| !INHERITED.contains(field)) {
        let ours = if field == "removeOffset" { "cleanOffset" } else { field };
        assert_eq!(ext.get(ours), Some(value), "{name}: {field}");
    }
}

#[test]
fn headers_lose_no_field() {
    for exchange in &exchanges() {
        let request = &exchange.frames[0];
        let check = match request.request_code() {
            RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE => {
                check_header::<send::SendMessage<'_>>
            }
            RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE => {
                check_header::<pull::PullMessage<'_>>
            }
            RequestCode::CONSUMER_SEND_MSG_BACK => check_header::<send::ConsumerSendMsgBack<'_>>,
            RequestCode::QUERY_CONSUMER_OFFSET => check_header::<offset::QueryConsumerOffset<'_>>,
            RequestCode::UPDATE_CONSUMER_OFFSET => check_header::<offset::UpdateConsumerOffset<'_>>,
            RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => check_header::<offset::SearchOffset<'_>>,
            RequestCode::GET_MAX_OFFSET => check_header::<offset::GetMaxOffset<'_>>,
            RequestCode::GET_MIN_OFFSET | RequestCode::GET_EARLIEST_MSG_STORETIME => {
                check_header::<offset::OneQueue<'_>>
            }
            RequestCode::UNREGISTER_CLIENT => check_header::<client::UnregisterClient<'_>>,
            RequestCode::GET_CONSUMER_LIST_BY_GROUP | RequestCode::NOTIFY_CONSUMER_IDS_CHANGED => {
                check_header::<client::OneConsumerGroup<'_>>
            }
            RequestCode::UPDATE_AND_CREATE_TOPIC => check_header::<topic::CreateTopic<'_>>,
            RequestCode::GET_TOPIC_STATS_INFO
            | RequestCode::GET_TOPIC_CONFIG
            | RequestCode::DELETE_TOPIC_IN_BROKER => check_header::<topic::OneTopic<'_>>,
            RequestCode::DELETE_TOPIC_IN_NAMESRV => {
                check_header::<namesrv::DeleteTopicInNamesrv<'_>>
            }
            RequestCode::DELETE_SUBSCRIPTIONGROUP => check_header::<group::DeleteGroup<'_>>,
            RequestCode::GET_CONSUME_STATS => check_header::<group::GetConsumeStats<'_>>,
            RequestCode::GET_ROUTEINFO_BY_TOPIC => check_header::<namesrv::GetRouteInfo<'_>>,
            RequestCode::REGISTER_BROKER => check_header::<namesrv::RegisterBroker<'_>>,
            RequestCode::UNREGISTER_BROKER => check_header::<namesrv::OneBroker<'_>>,
            RequestCode::WIPE_WRITE_PERM_OF_BROKER | RequestCode::ADD_WRITE_PERM_OF_BROKER => {
                check_header::<namesrv::OneBrokerName<'_>>
            }
            RequestCode::PUT_KV_CONFIG => check_header::<namesrv::PutKv<'_>>,
            RequestCode::GET_KV_CONFIG | RequestCode::DELETE_KV_CONFIG => {
                check_header::<namesrv::OneKey<'_>>
            }
            _ => continue,
        };
        check(exchange, request);
        let Some(response) = exchange.frames.get(1) else { continue };
        let check = match request.request_code() {
            RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE => {
                check_header::<send::SendMessageResponse<'_>>
            }
            RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE => {
                check_header::<pull::PullMessageResponse>
            }
            RequestCode::QUERY_CONSUMER_OFFSET
            | RequestCode::SEARCH_OFFSET_BY_TIMESTAMP
            | RequestCode::GET_MAX_OFFSET
            | RequestCode::GET_MIN_OFFSET => check_header::<offset::OffsetResponse>,
            RequestCode::GET_EARLIEST_MSG_STORETIME => check_header::<offset::TimestampResponse>,
            RequestCode::REGISTER_BROKER => check_header::<namesrv::RegisterBrokerResponse<'_>>,
            RequestCode::WIPE_WRITE_PERM_OF_BROKER => {
                check_header::<namesrv::WipeWritePermResponse>
            }
            RequestCode::ADD_WRITE_PERM_OF_BROKER => check_header::<namesrv::AddWritePermResponse>,
            RequestCode::GET_KV_CONFIG => check_header::<namesrv::GetKvResponse<'_>>,
            _ => continue,
        };
        check(exchange, response);
    }
}

/// Whether `again` says all that `original` says; arrays are sets.
fn holds(again: &Value, original: &Value) -> bool {
    match (again, original) {
        (Value::Object(again), Value::Object(original)) => original
            .iter()
            .all(|(name, value)| again.get(name).is_some_and(|again| holds(again, value))),
        (Value::Array(again), Value::Array(original)) => {
            again.len() == original.len()
                && original.iter().all(|value| again.iter().any(|again| holds(again, value)))
        }
        _ => again == original,
    }
}

/// Reads a body as `T` and writes it. What 5.5.0 wrote is the same again but for the order of maps
/// and sets; of what 4.9.7 wrote nothing is lost.
fn check_json<T: Serialize + DeserializeOwned>(name: &str, is_of_5_5: bool, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let value: T =
        fastjson::decode(bytes).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    let again = match text {
        _ if text.contains("\n\t") => fastjson::encode_pretty(&value),
        _ if text.contains("{\"0\":") => fastjson::encode_standard(&value),
        _ => fastjson::encode(&value),
    };
    let tree = |bytes: &[u8]| fastjson::decode::<Value>(bytes).expect("good JSON");
    let shown = String::from_utf8_lossy(&again);
    assert!(holds(&tree(&again), &tree(bytes)), "{name}: {shown} for {text}");
    if is_of_5_5 {
        assert_eq!(again.len(), bytes.len(), "{name}: {shown} for {text}");
    }
}

#[test]
fn bodies_are_read_and_written_the_same() {
    for exchange in &exchanges() {
        let request = &exchange.frames[0];
        let response = exchange.frames.get(1);
        let asked = |check: fn(&str, bool, &[u8])| Some((request, check));
        let answered = |check: fn(&str, bool, &[u8])| response.map(|frame| (frame, check));
        let found = match request.request_code() {
            RequestCode::HEART_BEAT => asked(check_json::<HeartbeatData>),
            RequestCode::UNLOCK_BATCH_MQ => asked(check_json::<LockBatch>),
            RequestCode::LOCK_BATCH_MQ => {
                check_json::<LockBatch>("lock", exchange.is_of_5_5, &request.body_bytes());
                answered(check_json::<LockBatchResponse>)
            }
            RequestCode::REGISTER_BROKER => asked(check_json::<RegisterBrokerBody>),
            RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => {
                asked(check_json::<SubscriptionGroupConfig>)
            }
            RequestCode::GET_ROUTEINFO_BY_TOPIC => answered(check_json::<TopicRouteData>),
            RequestCode::GET_BROKER_CLUSTER_INFO => answered(check_json::<ClusterInfo>),
            RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => answered(check_json::<TopicList>),
            RequestCode::GET_CONSUMER_LIST_BY_GROUP => answered(check_json::<ConsumerIdList>),
            RequestCode::GET_BROKER_RUNTIME_INFO => answered(check_json::<KvTable>),
            RequestCode::GET_TOPIC_STATS_INFO => answered(check_json::<TopicStatsTable>),
            RequestCode::GET_CONSUME_STATS => answered(check_json::<ConsumeStats>),
            RequestCode::GET_TOPIC_CONFIG => answered(check_json::<TopicConfig>),
            _ => None,
        };
        let Some((frame, check)) = found else { continue };
        if frame.body_len() > 0 {
            check(&exchange.path.to_string_lossy(), exchange.is_of_5_5, &frame.body_bytes());
        }
    }
}

#[test]
fn registrations_come_back_deflated() {
    let mut registrations = 0;
    for exchange in &exchanges() {
        let request = &exchange.frames[0];
        if request.request_code() != RequestCode::REGISTER_BROKER {
            continue;
        }
        let header: namesrv::RegisterBroker<'_> = request.header().expect("a good header");
        let bytes = request.body_bytes();
        assert_eq!(wire::hash::crc32(&bytes) as i32, header.body_crc32);
        let body = match header.compressed {
            true => RegisterBrokerBody::inflate(&bytes, request.version, 1 << 20),
            false => RegisterBrokerBody::decode(&bytes),
        };
        let body = body.expect("a good registration");
        let again = RegisterBrokerBody::inflate(&body.deflate(), request.version, 1 << 20);
        let again = again.expect("a good registration").topic_config_serialize_wrapper;
        let table = body.topic_config_serialize_wrapper;
        assert_eq!(again.data_version, table.data_version);
        assert!(again.topic_config_table.keys().eq(table.topic_config_table.keys()));
        registrations += 1;
    }
    assert!(registrations > 0);
}

#[test]
fn batches_are_written_as_they_came() {
    let mut items = 0;
    for exchange in &exchanges() {
        let request = &exchange.frames[0];
        if request.request_code() != RequestCode::SEND_BATCH_MESSAGE {
            continue;
        }
        let mut again = BytesMut::new();
        for item in wire::batch::iter(request.body_bytes()) {
            let item = item.expect("a good item");
            wire::batch::append(&mut again, item.flag, &item.body, &item.properties);
            items += 1;
        }
        assert_eq!(again, request.body_bytes());
    }
    assert!(items > 0);
}

/// Writes the records in `bytes` again and returns how many there were before their end.
fn check_records(name: &str, bytes: &[u8]) -> usize {
    let mut count = 0;
    let mut at = 0;
    while let Head::Record(len) = Head::read(&bytes[at..]) {
        let original = &bytes[at..at + len as usize];
        let record =
            Record::decode(original, CheckCrc::Yes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut again = BytesMut::new();
        record.to_message().encode(record.numbers, record.body_crc, &mut again);
        assert_eq!(again, original, "{name} at {at}");
        count += 1;
        at += len as usize;
    }
    count
}

#[test]
fn records_are_written_as_they_lie_in_logs_and_pulls() {
    let mut stored = 0;
    for path in files(&fixtures().join("stores")) {
        let name = path.to_string_lossy();
        if name.contains("/store/commitlog/") {
            stored += check_records(&name, &gunzipped(&path));
        }
    }
    assert!(stored > 1000, "{stored} records");
    let mut pulled = 0;
    for exchange in &exchanges() {
        let code = exchange.frames[0].request_code();
        let Some(response) = exchange.frames.get(1) else { continue };
        if matches!(code, RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE)
            && response.response_code() == ResponseCode::SUCCESS
        {
            let body = response.body_bytes();
            let count = check_records(&exchange.path.to_string_lossy(), &body);
            assert_eq!(record::iter(&body, CheckCrc::Yes).count(), count);
            pulled += count;
        }
    }
    assert!(pulled > 0);
}

#[test]
fn tables_are_read_and_written_the_same() {
    let mut tables = 0;
    for path in files(&fixtures().join("stores")) {
        let name = path.to_string_lossy();
        let Some((_, file)) = name.split_once("/store/config/") else { continue };
        let check = match file.split('.').next() {
            Some("topics") => check_json::<TopicConfigTable>,
            Some("subscriptionGroup") => check_json::<SubscriptionGroupTable>,
            Some("consumerOffset") => check_json::<ConsumerOffsetTable>,
            _ => continue,
        };
        check(&name, name.contains("/5.5.0-"), &gunzipped(&path));
        tables += 1;
    }
    assert!(tables >= 12, "{tables} tables");
}

#[test]
fn the_lists_of_codes_are_those_of_5_5_0() {
    let listed = |file: &str| fs::read_to_string(fixtures().join(file)).expect("a readable file");
    let requests = listed("request-codes-5.5.0.txt");
    let responses = listed("response-codes-5.5.0.txt");
    let ours = |code: i32, name: Option<&str>| format!("{code} {}", name.expect("a name"));
    let is_ours =
        |line: &str| RequestCode::ALL.iter().any(|code| ours(code.0, code.name()) == line);
    assert_eq!(requests.lines().find(|line| !is_ours(line)), None);
    // The list holds the `int`s of the class; these five are `short`s.
    let shorts = RequestCode::ALL.iter().filter(|code| (1014..=1018).contains(&code.0)).count();
    assert_eq!(RequestCode::ALL.len(), requests.lines().count() + shorts);
    let is_ours =
        |line: &str| ResponseCode::ALL.iter().any(|code| ours(code.0, code.name()) == line);
    assert_eq!(responses.lines().find(|line| !is_ours(line)), None);
}
