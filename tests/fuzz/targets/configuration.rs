//! Any bytes as a configuration, as its lock file, as the settings of a policy and as a signature.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use qhost_engine::config::{Config, Lock};
use qhost_policy::Signature;

/// In memory, where the system has such a folder.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = folder.join(format!("qhost-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.join("qhost.toml");
    fs::write(&path, bytes).expect("a file in the scratch folder");
    match Config::load_to_lock(&path) {
        Ok(config) => {
            let names = config.policies().len() + config.to_lock().len();
            assert!(config.chain("tenant").map_or(0, |chain| chain.len()) <= names.max(64));
        }
        Err(error) => drop(error.to_string()),
    }
    if let Err(error) = Lock::read(&path) {
        drop(error.to_string());
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    if let Ok(settings) = qhost_policy::settings(&text) {
        assert_eq!(qhost_policy::settings(&settings).as_ref(), Ok(&settings), "settings change again");
    }
    drop(Signature::parse(text));
});
