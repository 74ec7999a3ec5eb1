//! The job keys that say which architecture a guest has: qhost's own, and Nomad's `emulator`.

use crate::{architecture::Architecture, job::cursor::Object};

/// qhost's own key, with the architecture's name.
pub(super) const ARCHITECTURE: &str = "architecture";
/// Nomad's key, with the name of QEMU's program.
pub(super) const EMULATOR: &str = "emulator";

/// Reads both keys; absent after a problem was noted.
pub(super) fn read(config: &Object<'_>) -> Option<Architecture> {
    let named = config.optional(ARCHITECTURE);
    let named = named.map(|word| word.word(Architecture::ALL, Architecture::name));
    let Some(key) = config.optional(EMULATOR) else {
        return named.unwrap_or_else(|| Some(Architecture::default()));
    };
    let emulated = key.word(Architecture::ALL, Architecture::emulator);
    let Some(named) = named else { return emulated };
    let (named, emulated) = (named?, emulated?);
    if named == emulated {
        return Some(named);
    }
    let expected = format!("{}, as {ARCHITECTURE} is {}", named.emulator(), named.name());
    key.refuse_with_hint(expected, "leave emulator out: it goes by architecture")
}

/// The architecture of both keys, for other keys that depend on it. This notes no problem, and gives the default where
/// none is named.
pub(super) fn asked(config: &Object<'_>) -> Architecture {
    let find = |key: &str, name: fn(Architecture) -> &'static str| {
        let word = config.optional(key)?.value().as_str()?;
        Architecture::ALL.iter().copied().find(|one| name(*one) == word)
    };
    find(ARCHITECTURE, Architecture::name)
        .or_else(|| find(EMULATOR, Architecture::emulator))
        .unwrap_or_default()
}
