//! A TCP proxy that keeps the frames which pass it.
//!
//! It stands between two real programs, and records before it changes anything. A frame is four bytes of length and as many bytes; requests and
//! responses are paired by `opaque`, in each direction apart. Of each kind of exchange (who asked, request code, response
//! code) the first few are kept, as one file: the request's bytes, then the response's.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, ensure};

const SAMPLES_MAX: usize = 2;
const FRAME_BYTES_MAX: usize = 12 * 1024;

/// Which end of a connection sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    /// The one that connected.
    Caller,
    /// The one that listened.
    Listener,
}

/// Where exchanges go, and how many of each kind are there already.
#[derive(Debug)]
pub(crate) struct Album {
    folder: PathBuf,
    names: HashMap<i32, String>,
    kept: Mutex<HashMap<String, usize>>,
}

impl Album {
    /// An album in `folder`, naming codes by `names`.
    pub(crate) fn new(folder: PathBuf, names: HashMap<i32, String>) -> anyhow::Result<Arc<Album>> {
        fs::create_dir_all(&folder)?;
        Ok(Arc::new(Album { folder, names, kept: Mutex::default() }))
    }

    fn keep(&self, asked: Side, request: &[u8], response: Option<&[u8]>) -> anyhow::Result<()> {
        let code = head(request)?.code;
        let name = self.names.get(&code).map_or("UNKNOWN", String::as_str);
        let pushed = if asked == Side::Listener { "-pushed" } else { "" };
        let answer = match response {
            Some(response) => format!("{}", head(response)?.code),
            None => "oneway".to_owned(),
        };
        let kind = format!("{code:06}-{name}{pushed}-{answer}");
        let mut kept = self.kept.lock().expect("no holder panics");
        let count = kept.entry(kind.clone()).or_default();
        if *count == SAMPLES_MAX
            || request.len() + response.map_or(0, <[u8]>::len) > FRAME_BYTES_MAX
        {
            return Ok(());
        }
        *count += 1;
        let bytes = [request, response.unwrap_or_default()].concat();
        fs::write(self.folder.join(format!("{kind}-{count}.frames")), bytes)?;
        Ok(())
    }
}

/// A listening proxy: where it stands, and what it changes.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// Port on loopback at which it listens.
    pub(crate) port: u16,
    /// Port on loopback to which it passes each connection on.
    pub(crate) target: u16,
    /// Text that callers' frames carry on as other text of the same length, after they were recorded: how the broker's
    /// address becomes its proxy's in the routes, whoever registers it.
    pub(crate) rename: Option<(String, String)>,
}

/// Starts a proxy that runs for as long as this process lives.
pub(crate) fn start(proxy: &Proxy, album: Arc<Album>) -> anyhow::Result<()> {
    if let Some((old, new)) = &proxy.rename {
        ensure!(old.len() == new.len(), "`{old}` and `{new}` differ in length");
    }
    let (at, target) = (loopback(proxy.port), loopback(proxy.target));
    let rename = proxy.rename.clone();
    let listener = TcpListener::bind(at).with_context(|| format!("proxy at {at}"))?;
    thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            let album = Arc::clone(&album);
            if let Err(error) = join(caller, target, rename.as_ref(), album) {
                eprintln!("proxy to {target}: {error:#}");
            }
        }
    });
    Ok(())
}

fn join(
    caller: TcpStream,
    target: SocketAddr,
    rename: Option<&Rename>,
    album: Arc<Album>,
) -> anyhow::Result<()> {
    let listener = TcpStream::connect(target)?;
    caller.set_nodelay(true)?;
    listener.set_nodelay(true)?;
    // by who asked and opaque: the request that waits for its response
    let open = Arc::new(Mutex::new(HashMap::new()));
    for (side, from, to) in [
        (Side::Caller, caller.try_clone()?, listener.try_clone()?),
        (Side::Listener, listener, caller),
    ] {
        let (open, album) = (Arc::clone(&open), Arc::clone(&album));
        let rename = rename.filter(|_| side == Side::Caller).cloned();
        thread::spawn(move || {
            // either end may close at any time
            let _ = pass(side, &from, &to, rename.as_ref(), &open, &album);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

type Rename = (String, String);
type Open = Mutex<HashMap<(Side, i32), Vec<u8>>>;

fn pass(
    side: Side,
    mut from: &TcpStream,
    mut to: &TcpStream,
    rename: Option<&Rename>,
    open: &Open,
    album: &Album,
) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut frame = length.to_vec();
        frame.resize(4 + u32::from_be_bytes(length) as usize, 0);
        from.read_exact(&mut frame[4..])?;
        // recorded before it is passed on, so that a response always finds its request
        if let Err(error) = record(side, &frame, open, album) {
            eprintln!("not recorded: {error:#}");
        }
        if let Some((old, new)) = rename {
            replace(&mut frame, old.as_bytes(), new.as_bytes());
        }
        to.write_all(&frame)?;
    }
}

fn record(side: Side, frame: &[u8], open: &Open, album: &Album) -> anyhow::Result<()> {
    let head = head(frame)?;
    let other = if side == Side::Caller { Side::Listener } else { Side::Caller };
    match head.flag & 3 {
        0 => {
            open.lock().expect("no holder panics").insert((side, head.opaque), frame.to_vec());
            Ok(())
        }
        2 => album.keep(side, frame, None),
        _ => match open.lock().expect("no holder panics").remove(&(other, head.opaque)) {
            Some(request) => album.keep(other, &request, Some(frame)),
            None => Ok(()),
        },
    }
}

struct Head {
    code: i32,
    opaque: i32,
    flag: i32,
}

/// Reads what is needed to name a frame, apart from `wire`: the fixtures are what `wire` is tested with.
fn head(frame: &[u8]) -> anyhow::Result<Head> {
    let word = u32::from_be_bytes(
        *frame.get(4..).and_then(|rest| rest.first_chunk()).context("a short frame")?,
    );
    let header = frame.get(8..8 + (word & 0xff_ffff) as usize).context("a short header")?;
    if word >> 24 == 1 {
        let fixed: &[u8; 13] = header.first_chunk().context("a short binary header")?;
        return Ok(Head {
            code: i32::from(u16::from_be_bytes([fixed[0], fixed[1]])),
            opaque: i32::from_be_bytes([fixed[5], fixed[6], fixed[7], fixed[8]]),
            flag: i32::from_be_bytes([fixed[9], fixed[10], fixed[11], fixed[12]]),
        });
    }
    let json: serde_json::Value = serde_json::from_slice(header)?;
    let field =
        |name: &str| json.get(name).and_then(serde_json::Value::as_i64).context(name.to_owned());
    Ok(Head {
        code: i32::try_from(field("code")?)?,
        opaque: i32::try_from(field("opaque")?)?,
        flag: i32::try_from(field("flag")?)?,
    })
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(old.len()).position(|window| window == old) {
        at += found;
        bytes[at..at + new.len()].copy_from_slice(new);
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Removes a folder of exchanges, so that a new capture leaves nothing of the old one.
pub(crate) fn clear(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}
