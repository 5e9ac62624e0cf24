#![no_main]
//! Handles that recall a timer message: what is read is written as a handle that says the same, unless its last word is
//! empty, which Java's `split` forgets.

use wire::recall::RecallHandle;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(handle) = RecallHandle::decode(text)
        && !handle.unique_key.is_empty()
    {
        assert_eq!(RecallHandle::decode(&handle.encode()), Ok(handle));
    }
    // Most texts are no base64: the words behind it are reached this way.
    let words: Vec<&str> = text.split(' ').collect();
    if let [topic, broker, time, unique_key] = words[..] {
        let owned = str::to_owned;
        let handle = RecallHandle {
            topic: owned(topic),
            broker: owned(broker),
            time: owned(time),
            unique_key: owned(unique_key),
        };
        if words.iter().all(|word| !word.is_empty()) {
            assert_eq!(RecallHandle::decode(&handle.encode()), Ok(handle));
        }
    }
});
