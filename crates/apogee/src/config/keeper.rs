//! Keeping what an administrator changes at run time: edits of the property files that the process was started with.
//!
//! A changed key is edited where it stands, in the last file that says it, or else added at the end of the last file; no
//! other line changes. The new text is written beside the old one, synced, and takes its place at once, so a crash leaves
//! either of the two. (Java: `Configuration.persist`, which writes all keys anew.)

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{Layers, key_of_environment, properties};

/// Where changes are kept.
pub(crate) struct Keeper {
    /// In the order in which the next start reads them; at least one.
    files: Vec<PathBuf>,
    /// Keys that something stronger than a file says, and what that is.
    overruled: BTreeMap<String, String>,
}

impl Keeper {
    /// Makes one for the files of `layers`; none when there are no files.
    pub(crate) fn new(layers: &Layers) -> Option<Keeper> {
        let environment = layers.environment.iter().filter_map(|(name, _)| {
            let rest = name.strip_prefix(super::PREFIX)?;
            Some((key_of_environment(rest), format!("the environment's {name}")))
        });
        let sets = layers.sets.iter().filter_map(|text| {
            let (key, _) = text.split_once('=')?;
            Some((key.trim().to_owned(), format!("--set {key}")))
        });
        let flags = layers.flags.iter().map(|(flag, key, _)| (key.to_string(), flag.to_string()));
        let overruled = environment.chain(sets).chain(flags).collect();
        (!layers.files.is_empty()).then(|| Keeper { files: layers.files.clone(), overruled })
    }

    /// Writes the changes into the files.
    ///
    /// # Errors
    /// Says why the next start will not have some of them.
    pub(crate) fn keep(&self, changes: &BTreeMap<String, String>) -> Result<(), String> {
        let mut texts = Vec::with_capacity(self.files.len());
        for path in &self.files {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
            texts.push((path, text, false));
        }
        for (key, value) in changes {
            let says = |text: &str| properties::parse(text).iter().any(|pair| pair.key == *key);
            let at = texts.iter().rposition(|(_, text, _)| says(text)).unwrap_or(texts.len() - 1);
            let (_, text, is_changed) = &mut texts[at];
            *text = properties::with(text, key, value);
            *is_changed = true;
        }
        for (path, text, _) in texts.into_iter().filter(|(_, _, is_changed)| *is_changed) {
            replace(path, &text)
                .map_err(|error| format!("`{}` cannot be written: {error}", path.display()))?;
        }
        let overruled = changes.keys().find_map(|key| Some((key, self.overruled.get(key)?)));
        match overruled {
            Some((key, stronger)) => Err(format!("{stronger} says otherwise of {key}")),
            None => Ok(()),
        }
    }
}

/// Puts `text` into the place of a file; a link to it stays a link, and its permissions stay.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mut beside = path.file_name().map_or_else(OsString::new, OsString::from);
    beside.push(".new");
    let beside = path.with_file_name(beside);
    let mut file = File::create(&beside)?;
    file.set_permissions(fs::metadata(&path)?.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Style, *};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("keeper-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn layers(files: Vec<PathBuf>) -> Layers {
        Layers {
            style: Style::Original,
            files,
            sets: vec!["slaveReadEnable=true".into()],
            flags: Vec::new(),
            environment: vec![("APOGEE_BROKER_PERMISSION".into(), "6".into())],
            home: "/".into(),
            host_name: "h".into(),
        }
    }

    fn change(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_change_is_edited_where_it_stands_and_found_by_the_next_start() {
        let folder = Folder::new("edit");
        let first = folder.file("a.conf", "# mine\nlongPollingEnable = true # not a comment\n");
        let second = folder.file("b.conf", "regionId=r");
        let layers = layers(vec![first.clone(), second.clone()]);
        let keeper = Keeper::new(&layers).unwrap();
        keeper.keep(&change("longPollingEnable", "false")).unwrap();
        keeper.keep(&change("shortPollingTimeMills", "5")).unwrap();
        assert_eq!(fs::read_to_string(&first).unwrap(), "# mine\nlongPollingEnable=false\n");
        assert_eq!(fs::read_to_string(&second).unwrap(), "regionId=r\nshortPollingTimeMills=5\n");
        let next = layers.load().unwrap().settings.broker;
        assert_eq!((next.long_polling_enable, next.short_polling_time), (false, 5));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "nothing is left beside");
    }

    #[test]
    fn what_the_next_start_will_not_have_is_said() {
        let folder = Folder::new("overruled");
        let layers = layers(vec![folder.file("a.conf", "")]);
        let keeper = Keeper::new(&layers).unwrap();
        let said = keeper.keep(&change("slaveReadEnable", "false")).unwrap_err();
        assert_eq!(said, "--set slaveReadEnable says otherwise of slaveReadEnable");
        let said = keeper.keep(&change("brokerPermission", "4")).unwrap_err();
        assert!(said.starts_with("the environment's APOGEE_BROKER_PERMISSION"), "{said}");
        fs::remove_file(folder.0.join("a.conf")).unwrap();
        assert!(keeper.keep(&change("brokerPermission", "4")).unwrap_err().contains("a.conf"));
    }
}
