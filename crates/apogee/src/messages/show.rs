//! What is printed: a line for each message, and how fast it goes.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::Instant,
};

use anyhow::Result;
use apogee_client::{ReceivedMessage, SendReceipt, SendStatus};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

use super::when;

/// How messages are printed.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Form {
    /// Prints a JSON object a line.
    #[arg(long)]
    json: bool,
    /// Prints bodies only, byte for byte, a newline behind each.
    #[arg(long, conflicts_with = "json")]
    body: bool,
}

/// Prints and counts; the rate stands on a terminal that the messages themselves do not go to.
#[derive(Debug)]
pub(super) struct Printer {
    form: Form,
    bar: ProgressBar,
    begun: Instant,
    count: u64,
}

impl Printer {
    pub(super) fn new(form: Form) -> Printer {
        let is_watched = io::stderr().is_terminal() && !io::stdout().is_terminal();
        let bar = if is_watched { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        Printer { form, bar, begun: Instant::now(), count: 0 }
    }

    /// A printer of receipts.
    pub(super) fn of_receipts(json: bool) -> Printer {
        Printer::new(Form { json, body: false })
    }

    /// How many were printed.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn message(&mut self, message: &ReceivedMessage) -> io::Result<()> {
        if self.form.body {
            let mut out = io::stdout().lock();
            out.write_all(message.body())?;
            out.write_all(b"\n")?;
            return self.counted();
        }
        self.line(&if self.form.json { object(message).to_string() } else { text(message) })
    }

    pub(super) fn receipt(&mut self, receipt: &SendReceipt) -> io::Result<()> {
        let status = match receipt.status {
            SendStatus::SendOk => "SEND_OK",
            SendStatus::FlushDiskTimeout => "FLUSH_DISK_TIMEOUT",
            SendStatus::FlushSlaveTimeout => "FLUSH_SLAVE_TIMEOUT",
            SendStatus::SlaveNotAvailable => "SLAVE_NOT_AVAILABLE",
        };
        let SendReceipt { unique_key, queue, queue_offset, .. } = receipt;
        let handle = receipt.recall_handle.as_deref();
        if self.form.json {
            let mut object = json!({
                "messageId": unique_key, "topic": queue.topic, "broker": queue.broker_name,
                "queue": queue.queue_id, "offset": queue_offset, "offsetId": receipt.offset_id, "status": status,
            });
            if let Some(handle) = handle {
                object["recallHandle"] = handle.into();
            }
            return self.line(&object.to_string());
        }
        let mut text =
            format!("{unique_key} {}", place(&queue.broker_name, queue.queue_id, *queue_offset));
        if receipt.status != SendStatus::SendOk {
            text = format!("{text} {status}");
        }
        if let Some(handle) = handle {
            text = format!("{text} recall={handle}");
        }
        self.line(&text)
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")?;
        self.counted()
    }

    fn counted(&mut self) -> io::Result<()> {
        const SHOWN_EVERY: u64 = 64;
        self.count += 1;
        if self.count.is_multiple_of(SHOWN_EVERY) {
            let rate = self.count as f64 / self.begun.elapsed().as_secs_f64();
            self.bar.set_message(format!("{} messages, {rate:.0}/s", self.count));
            self.bar.tick();
        }
        Ok(())
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What becomes of a command whose output cannot be written: whoever has read enough closes the pipe.
pub(super) fn unread(error: io::Error) -> Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error.into()),
    }
}

fn place(broker: &str, queue_id: i32, offset: i64) -> String {
    format!("{broker}:{queue_id}@{offset}")
}

/// A message for people, on one line; it cannot command their terminal.
fn text(message: &ReceivedMessage) -> String {
    let queue = message.queue();
    let mut text = when::shown(message.stored_at());
    let place = place(&queue.broker_name, queue.queue_id, message.queue_offset());
    let mut pair = |name: &str, value: &str| {
        write!(text, " {}={}", plain(name), plain(value)).expect("a String takes all");
    };
    pair("at", &place);
    if let Some(tag) = message.tag() {
        pair("tag", tag);
    }
    message.keys().for_each(|key| pair("key", key));
    if message.reconsume_times() > 0 {
        pair("retries", &message.reconsume_times().to_string());
    }
    message.user_properties().for_each(|(name, value)| pair(name, value));
    write!(text, "  {}", plain(&String::from_utf8_lossy(message.body())))
        .expect("a String takes all");
    text
}

/// Text without control characters.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' => out.push(letter),
            _ if letter.is_control() => out.extend(letter.escape_default()),
            _ => out.push(letter),
        }
    }
    out
}

/// A message for programs. A body that is no UTF-8 stands in hexadecimal digits, under another name.
fn object(message: &ReceivedMessage) -> Value {
    let queue = message.queue();
    let properties: Map<String, Value> =
        message.properties().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut object = json!({
        "messageId": message.unique_key(), "topic": message.topic(), "broker": queue.broker_name,
        "queue": queue.queue_id, "offset": message.queue_offset(), "offsetId": message.offset_id(),
        "tag": message.tag(), "keys": message.keys().collect::<Vec<_>>(), "properties": properties,
        "bornAt": message.born_at(), "storedAt": message.stored_at(), "reconsumeTimes": message.reconsume_times(),
    });
    match std::str::from_utf8(message.body()) {
        Ok(body) => object["body"] = body.into(),
        Err(_) => {
            let hex = message.body().iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("a String takes all");
                hex
            });
            object["bodyHex"] = hex.into();
        }
    }
    object
}
