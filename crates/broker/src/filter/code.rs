//! Code filters: a WebAssembly module that an administrator attaches to a topic and a group says which messages the group
//! gets, whatever its clients subscribe to.
//!
//! ```text
//! file config/filters/<topic>@<group>.wasm
//! exports memory, and
//!   alloc(len: i32) -> i32                               where `len` bytes are to be written
//!   filter(i32, i32, i32, i32) -> i32                    address and length of properties and body: 0 drops the message
//! imports nothing
//! properties are as in a record, `name \u{1} value \u{2}` repeated; the body is uncompressed
//! ```
//! Every message meets a fresh instance with a bound on instructions and on memory, so a verdict depends on the message
//! alone. Files are looked at each second; nothing over the wire changes them.
//!
//! Invariant: a filter that is attached and cannot be loaded, or does not come to a verdict, lets nothing through, and is
//! counted. (In place of Java's `FilterServer`, which ran what clients uploaded.)

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytestring::ByteString;
use env::{Disk, Env, Millis, read_whole};
use thiserror::Error;
use wasmi::{
    Config, EnforcedLimits, Engine, Linker, Module, Store, StoreLimits, StoreLimitsBuilder,
};
use wire::{
    compression::{self, OpenError},
    names,
    record::Record,
};

use crate::Options;

/// Directory of the modules, in that of the tables.
pub const DIR: &str = "filters";
/// End of a module's file name.
pub const SUFFIX: &str = ".wasm";

/// Bounds of code filters.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a module.
    pub module_bytes_max: usize,
    /// Instructions, roughly, for one message.
    pub fuel_max: u64,
    /// Bytes of memory for one message, and of an uncompressed body.
    pub memory_bytes_max: usize,
    /// Filters that may be attached.
    pub filters_max: usize,
}

/// Why a module is refused, or does not come to a verdict.
#[derive(Debug, Error)]
pub enum CodeError {
    /// The file is longer than a module may be.
    #[error(
        "a module of {len} bytes is longer than codeFilterModuleBytesMax, {max}; strip it, or raise that"
    )]
    TooLong {
        /// Bytes of the file.
        len: u64,
        /// Bytes that it may have.
        max: usize,
    },
    /// It is no valid module.
    #[error("it is no module of WebAssembly: {0}")]
    Invalid(wasmi::Error),
    /// It asks for something of its host.
    #[error("it imports `{0}`; a filter imports nothing")]
    Imports(String),
    /// It lacks an export, or that is of another type.
    #[error("it does not export `{export}`, which is to be {what}")]
    Exports {
        /// Name of the export.
        export: &'static str,
        /// Its type.
        what: &'static str,
    },
    /// It broke off: it trapped, or needed more fuel or memory than it may.
    #[error("it broke off: {0}; codeFilterFuelMax and codeFilterMemoryMax bound it")]
    Trapped(wasmi::Error),
    /// The place that it gave for properties or body is outside of its memory.
    #[error("alloc gave a place outside of its memory")]
    OutOfBounds,
    /// The body is compressed in a way that is not understood here, or damaged, or too long.
    #[error("{0}; codeFilterMemoryMax bounds it")]
    Body(#[from] OpenError),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(std::io::Error),
}

/// A module that is ready to judge messages.
pub struct CodeFilter {
    module: Module,
    limits: Limits,
}

impl CodeFilter {
    /// Compiles a module and tries whether it starts.
    ///
    /// # Errors
    /// See [`CodeError`].
    pub fn load(bytes: &[u8], limits: Limits) -> Result<CodeFilter, CodeError> {
        let max = limits.module_bytes_max;
        if bytes.len() > max {
            return Err(CodeError::TooLong { len: bytes.len() as u64, max });
        }
        let mut config = Config::default();
        config.consume_fuel(true).enforced_limits(EnforcedLimits::strict());
        let module = Module::new(&Engine::new(&config), bytes).map_err(CodeError::Invalid)?;
        if let Some(import) = module.imports().next() {
            return Err(CodeError::Imports(format!("{}.{}", import.module(), import.name())));
        }
        let filter = CodeFilter { module, limits };
        filter.instance()?;
        Ok(filter)
    }

    /// Says whether a message is let through.
    ///
    /// # Errors
    /// [`CodeError`] when there is no verdict; the message is not to be let through then.
    pub fn passes(&self, properties: &str, body: &[u8]) -> Result<bool, CodeError> {
        let Instance { mut store, memory, alloc, filter } = self.instance()?;
        let mut place = |bytes: &[u8]| {
            let len = i32::try_from(bytes.len()).map_err(|_| CodeError::OutOfBounds)?;
            let at = alloc.call(&mut store, len).map_err(CodeError::Trapped)?;
            let outside = |_| CodeError::OutOfBounds;
            memory.write(&mut store, at as u32 as usize, bytes).map_err(outside)?;
            Ok::<_, CodeError>((at, len))
        };
        let (properties, body) = (place(properties.as_bytes())?, place(body)?);
        let verdict = filter.call(&mut store, (properties.0, properties.1, body.0, body.1));
        Ok(verdict.map_err(CodeError::Trapped)? != 0)
    }

    fn instance(&self) -> Result<Instance, CodeError> {
        let Limits { memory_bytes_max, fuel_max, .. } = self.limits;
        let bounds = StoreLimitsBuilder::new()
            .memory_size(memory_bytes_max)
            .memories(1)
            .tables(1)
            .table_elements(TABLE_MAX)
            .build();
        let mut store = Store::new(self.module.engine(), bounds);
        store.limiter(|bounds| bounds);
        store.set_fuel(fuel_max).expect("fuel is consumed");
        let instance = Linker::new(self.module.engine())
            .instantiate_and_start(&mut store, &self.module)
            .map_err(CodeError::Trapped)?;
        let lacks = |export, what| CodeError::Exports { export, what };
        let memory = instance.get_memory(&store, "memory");
        let alloc = instance.get_typed_func(&store, "alloc");
        let filter = instance.get_typed_func(&store, "filter");
        Ok(Instance {
            memory: memory.ok_or_else(|| lacks("memory", "a memory"))?,
            alloc: alloc
                .map_err(|_| lacks("alloc", "a function of one i32 that returns an i32"))?,
            filter: filter
                .map_err(|_| lacks("filter", "a function of four i32 that returns an i32"))?,
            store,
        })
    }
}

/// Elements of a module's table: its indirect calls.
const TABLE_MAX: usize = 10_000;

/// A module's life for one message.
struct Instance {
    store: Store<StoreLimits>,
    memory: wasmi::Memory,
    alloc: wasmi::TypedFunc<i32, i32>,
    filter: wasmi::TypedFunc<(i32, i32, i32, i32), i32>,
}

/// A filter as it is attached.
pub(crate) struct Attached {
    /// `None` if it could not be loaded.
    filter: Option<CodeFilter>,
    /// Whether that may be otherwise although the file stays the same: there was no room for it, or it could not be read.
    may_load_later: bool,
    /// Length and time of its file.
    seen: (u64, Millis),
    name: String,
    errors: Arc<AtomicU64>,
}

impl Attached {
    /// Whether a record is let through; one without a verdict is not.
    pub(crate) fn passes(&self, record: &Record<'_>) -> bool {
        let Some(filter) = &self.filter else {
            self.errors.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        let body = compression::open(record.sys_flag, record.body, filter.limits.memory_bytes_max);
        let verdict =
            body.map_err(CodeError::from).and_then(|body| filter.passes(&record.properties, &body));
        verdict.unwrap_or_else(|error| {
            let count = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_power_of_two() {
                let filter = &self.name;
                tracing::warn!(filter, %error, count, "a code filter came to no verdict; the message is not delivered");
            }
            false
        })
    }
}

/// topic → group → filter
type Filters = HashMap<ByteString, HashMap<ByteString, Arc<Attached>>>;

/// All code filters of the broker.
pub(crate) struct CodeFilters {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    limits: Limits,
    live: RwLock<Filters>,
    errors: Arc<AtomicU64>,
}

impl CodeFilters {
    /// Loads what is attached.
    pub(crate) fn new(env: &Env, config_dir: &Path, options: &Options) -> CodeFilters {
        let filters = CodeFilters {
            disk: env.disk.clone(),
            dir: config_dir.join(DIR),
            limits: options.code_filter_limits(),
            live: RwLock::default(),
            errors: Arc::default(),
        };
        filters.look();
        filters
    }

    /// Returns the filter of a group on a topic.
    pub(crate) fn get(&self, topic: &str, group: &str) -> Option<Arc<Attached>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.get(topic)?.get(group).cloned()
    }

    /// Returns how many filters are attached, and how often one came to no verdict.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        (live.values().map(HashMap::len).sum(), self.errors.load(Ordering::Relaxed))
    }

    /// Looks which files there are, and loads those that are new or have changed. It waits for the disk.
    pub(crate) fn look(&self) {
        let mut found = match self.disk.list(&self.dir) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "code filters cannot be listed; those that are known stay");
                return;
            }
        };
        found.retain(|entry| !entry.is_dir && pair_of(&entry.name).is_some());
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let mut filters = Filters::new();
        for (count, entry) in found.into_iter().enumerate() {
            let Some((topic, group)) = pair_of(&entry.name) else { continue };
            let seen = (entry.len, entry.modified);
            let is_one_too_many = count >= self.limits.filters_max;
            let known = self
                .get(topic, group)
                .filter(|known| known.seen == seen && (is_one_too_many || !known.may_load_later));
            let attached =
                known.unwrap_or_else(|| Arc::new(self.attach(&entry.name, seen, is_one_too_many)));
            filters.entry(topic.into()).or_default().insert(group.into(), attached);
        }
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        for (topic, group) in
            live.iter().flat_map(|(topic, groups)| groups.keys().map(move |group| (topic, group)))
        {
            if !filters.get(topic).is_some_and(|groups| groups.contains_key(group)) {
                tracing::info!(%topic, %group, "code filter detached");
            }
        }
        *live = filters;
    }

    fn attach(&self, name: &str, seen: (u64, Millis), is_one_too_many: bool) -> Attached {
        let mut may_load_later = is_one_too_many;
        let filter = if is_one_too_many {
            let max = self.limits.filters_max;
            tracing::error!(
                filter = name,
                max,
                "more code filters than codeFiltersMax; its group gets nothing of its topic"
            );
            None
        } else {
            match self.load(name) {
                Ok(filter) => {
                    tracing::info!(filter = name, bytes = seen.0, "code filter attached");
                    Some(filter)
                }
                Err(error) => {
                    may_load_later = matches!(error, CodeError::Unreadable(_));
                    tracing::error!(filter = name, %error, "a code filter cannot be loaded; its group gets nothing of its topic");
                    None
                }
            }
        };
        Attached {
            filter,
            may_load_later,
            seen,
            name: name.to_owned(),
            errors: self.errors.clone(),
        }
    }

    fn load(&self, name: &str) -> Result<CodeFilter, CodeError> {
        let max = self.limits.module_bytes_max;
        let bytes = read_whole(&*self.disk, &self.dir.join(name), max as u64);
        let bytes = bytes.map_err(CodeError::Unreadable)?;
        CodeFilter::load(&bytes.unwrap_or_default(), self.limits)
    }
}

/// Returns topic and group that a file's name says; `None` if it is no module's.
pub fn pair_of(file_name: &str) -> Option<(&str, &str)> {
    let (topic, group) = file_name.strip_suffix(SUFFIX)?.split_once('@')?;
    let is_fine = names::check_topic(topic).is_ok() && names::check_group(group).is_ok();
    is_fine.then_some((topic, group))
}

impl Options {
    /// Returns the bounds of code filters.
    pub fn code_filter_limits(&self) -> Limits {
        Limits {
            module_bytes_max: self.code_filter_module_bytes_max,
            fuel_max: self.code_filter_fuel_max,
            memory_bytes_max: self.code_filter_memory_max,
            filters_max: self.code_filters_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        module_bytes_max: 4_096,
        fuel_max: 10_000,
        memory_bytes_max: 3 << 16,
        filters_max: 2,
    };

    /// A filter with this body; `alloc` gives places one behind the other, from 1024 on.
    fn with(body: &str) -> Result<CodeFilter, CodeError> {
        let text = format!(
            r#"(module
                (memory (export "memory") 1)
                (global $next (mut i32) (i32.const 1024))
                (func (export "alloc") (param $len i32) (result i32)
                    global.get $next
                    (global.set $next (i32.add (global.get $next) (local.get $len))))
                (func (export "filter") (param $p i32) (param $pl i32) (param $b i32) (param $bl i32) (result i32)
                    {body}))"#
        );
        load(&text)
    }

    fn load(text: &str) -> Result<CodeFilter, CodeError> {
        CodeFilter::load(&wat::parse_str(text).expect("parses"), LIMITS)
    }

    fn said(error: Result<impl Sized, CodeError>) -> String {
        error.err().expect("an error").to_string()
    }

    #[test]
    fn a_module_sees_properties_and_body() {
        let equal_lengths = with("(i32.eq (local.get $pl) (local.get $bl))").expect("loads");
        assert!(equal_lengths.passes("ab", b"cd").expect("a verdict"));
        assert!(!equal_lengths.passes("ab", b"").expect("a verdict"));
        let first = with("(i32.eq (i32.load8_u (local.get $p)) (i32.load8_u (local.get $b)))");
        let first = first.expect("loads");
        assert!(first.passes("x1", b"x2").expect("a verdict"));
        assert!(!first.passes("x1", b"y1").expect("a verdict"));
    }

    #[test]
    fn each_message_meets_a_fresh_instance() {
        let counting = with(
            "(i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
             (i32.eq (i32.load (i32.const 0)) (i32.const 1))",
        );
        let counting = counting.expect("loads");
        assert!((0..3).all(|_| counting.passes("", b"").expect("a verdict")));
    }

    #[test]
    fn what_breaks_off_has_no_verdict() {
        let endless = with("(loop $l (br $l)) (i32.const 1)").expect("loads");
        assert!(said(endless.passes("", b"")).contains("broke off"));
        let trap = with("unreachable").expect("loads");
        assert!(said(trap.passes("", b"")).contains("broke off"));
        let greedy = with("(i32.ne (memory.grow (i32.const 3)) (i32.const -1))").expect("loads");
        assert!(!greedy.passes("", b"").is_ok_and(|passes| passes), "it gets no more memory");
        let nowhere = load(
            r#"(module (memory (export "memory") 1)
                (func (export "alloc") (param i32) (result i32) (i32.const -1))
                (func (export "filter") (param i32 i32 i32 i32) (result i32) (i32.const 1)))"#,
        );
        assert!(said(nowhere.expect("loads").passes("x", b"")).contains("outside"));
        assert!(with("(i32.const 1)").expect("loads").passes("", &[0; 1 << 17]).is_err());
    }

    #[test]
    fn what_is_no_filter_is_refused_by_what_it_lacks() {
        assert!(said(CodeFilter::load(b"\0asm", LIMITS)).contains("no module"));
        assert!(said(CodeFilter::load(&[0; 5_000], LIMITS)).contains("codeFilterModuleBytesMax"));
        let importing = load(r#"(module (import "env" "now" (func)))"#);
        assert!(said(importing).contains("`env.now`"));
        assert!(said(load("(module)")).contains("`memory`"));
        assert!(said(load(r#"(module (memory (export "memory") 4))"#)).contains("broke off"));
        let starting =
            load(r#"(module (memory (export "memory") 1) (func $s (loop $l (br $l))) (start $s))"#);
        assert!(said(starting).contains("broke off"));
        let other = r#"(module (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) (i32.const 0))
            (func (export "filter") (param i32) (result i32) (i32.const 0)))"#;
        assert!(said(load(other)).contains("four i32"));
    }

    #[test]
    fn the_example_lets_urgent_orders_through() {
        let module = include_bytes!("../../../../fixtures/filters/example.wasm");
        let limits = Limits { module_bytes_max: 1 << 16, memory_bytes_max: 4 << 20, ..LIMITS };
        let filter = CodeFilter::load(module, limits).expect("loads");
        let passes =
            |properties: &str, body: &[u8]| filter.passes(properties, body).expect("a verdict");
        assert!(passes("TAGS\u{1}urgent\u{2}region\u{1}eu\u{2}", b"{}"));
        assert!(passes("region\u{1}us\u{2}", b"{\"note\": \"URGENT\"}"));
        assert!(!passes("region\u{1}us\u{2}", b"{\"note\": \"whenever\"}"));
        assert!(!passes("", b""));
    }

    #[test]
    fn file_names_say_topic_and_group() {
        assert_eq!(pair_of("orders@billing.wasm"), Some(("orders", "billing")));
        for other in ["orders.wasm", "orders@billing", "a b@c.wasm", "@g.wasm", ".tmp@x.wasm"] {
            assert_eq!(pair_of(other), None, "{other}");
        }
    }
}
