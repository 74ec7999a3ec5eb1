//! Compiles in a process of its own. A policy's author can hand in a file that makes the compiler run for ever or take all
//! memory (wasmtime does not count that as a vulnerability); with limits on the child process, such a file costs no more
//! than the limits.

use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    process::{ExitStatus, Stdio},
    str::FromStr,
    thread,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Resource, Rlimit, setrlimit},
};
use wasmtime::Engine;
use wit_component::{ComponentEncoder, DecodedWasm};

use qhost_model::printable;
use qhost_sys::spawn;

use super::{
    component::Kind,
    contract::{EXPORTED, Version},
    sandbox,
};
use crate::limits;

/// The hidden subcommand of `qhost` that ends up in [`child`].
pub const SUBCOMMAND: &str = "__compile";

/// Turns a file into a component. A core module gets nothing that it does not ask for: no adapter, no WASI.
pub(super) fn component(file: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if Kind::of(file)? == Kind::Component {
        return Ok(file.into());
    }
    let encoded = ComponentEncoder::default()
        .module(file)
        .and_then(|encoder| encoder.validate(true).encode());
    encoded
        .map(Cow::Owned)
        .map_err(|error| format!("a core module that cannot be made a component: {error:#}"))
}

/// Checks that a component is of a policy's world, as far as its exports tell; the error says what it is instead.
fn is_one(component: &[u8]) -> Result<(), String> {
    let decoded = wit_component::decode(component).map_err(|error| format!("{error:#}"))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err("a WIT package and no component".into());
    };
    let world = resolve.worlds.get(world);
    let exports = world.iter().flat_map(|world| world.exports.keys());
    let exports: Vec<_> = exports.map(|key| resolve.name_world_key(key)).collect();
    match Version::of(&exports) {
        Some(_) => Ok(()),
        None => Err(format!("no policy: it does not export {EXPORTED}")),
    }
}

/// What compiling one policy may take.
#[derive(Debug, Clone, Copy)]
pub struct CompileLimits {
    /// The longest that compiling may take.
    pub time: Duration,
    /// The compiler's address space in bytes.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time: limits::COMPILE, memory: limits::COMPILE_MEMORY_BYTES }
    }
}

/// What a compiler is to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Code to run.
    Code,
    /// A component that is a policy.
    Component,
}

impl FromStr for Product {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "code" => Ok(Self::Code),
            "component" => Ok(Self::Component),
            _ => Err("expected code or component".into()),
        }
    }
}

/// Compiles a policy's file; the error says what became of the compiler.
pub(super) fn compile(file: &[u8], limits: CompileLimits) -> Result<Vec<u8>, String> {
    make("code", file, limits)
}

/// Makes a component of a policy's file, which is a core module or a component already. The work is done in the compiler's
/// process, because the reader of a core module's embedded types can be made to overflow its stack.
pub fn componentize(file: &[u8]) -> Result<Vec<u8>, String> {
    make("component", file, CompileLimits::default())
}

fn make(product: &str, file: &[u8], limits: CompileLimits) -> Result<Vec<u8>, String> {
    let broken = |error: io::Error| format!("the compiler could not be run: {error}");
    let [mut output, mut errors] = [anonymous().map_err(broken)?, anonymous().map_err(broken)?];
    let status = run(product, file, limits, &output, &errors).map_err(broken)?;
    let Some(status) = status else {
        return Err(format!("compiling it took longer than {} s", limits.time.as_secs()));
    };
    let mut said = String::new();
    let mut code = vec![];
    let read = rewound(&mut errors)
        .and_then(|errors| errors.take(limits::COMPILE_SAID_BYTES).read_to_string(&mut said))
        .and_then(|_| rewound(&mut output)?.read_to_end(&mut code));
    read.map_err(broken)?;
    if status.success() { Ok(code) } else { Err(reason(status, &said, limits)) }
}

/// Starts the compiler and waits for its end, or kills it at the limit.
fn run(
    product: &str,
    file: &[u8],
    limits: CompileLimits,
    output: &File,
    errors: &File,
) -> io::Result<Option<ExitStatus>> {
    let mut input = anonymous()?;
    input.write_all(file)?;
    input.rewind()?;
    let seconds = limits.time.as_secs().to_string();
    let args = [product.to_owned(), limits.memory.to_string(), seconds];
    let mut child = spawn::this_program(SUBCOMMAND, &args)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output.try_clone()?))
        .stderr(Stdio::from(errors.try_clone()?))
        .spawn()?;
    spawn::wait(&mut child, limits.time)
}

/// A file without a name, in memory.
fn anonymous() -> io::Result<File> {
    Ok(File::from(memfd_create("qhost-compile", MemfdFlags::CLOEXEC)?))
}

fn rewound(file: &mut File) -> io::Result<&mut File> {
    file.rewind()?;
    Ok(file)
}

/// Says why a compiler failed: in its own words, or by the signal that ended it, as when it got no more memory or time.
fn reason(status: ExitStatus, said: &str, limits: CompileLimits) -> String {
    let said = printable::line(said.trim(), 300).to_string();
    match status.code() {
        Some(FAILED) => said,
        Some(_) | None => format!(
            "the compiler died ({status}) with {} s and {} MiB to use: {said}",
            limits.time.as_secs(),
            limits.memory >> 20
        ),
    }
}

/// The exit status of a compiler that has something to say.
const FAILED: i32 = 1;

/// Runs as the compiler's process, with a policy's file on standard input and compiled code on standard output. The
/// process sets its own limits first, so that they hold should its parent be gone.
pub fn child(product: Product, memory: u64, seconds: u64) -> Result<(), String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let most = |most| Rlimit { current: Some(most), maximum: Some(most) };
    for (resource, limit) in [
        (Resource::As, memory),
        (Resource::Cpu, (seconds + 1).saturating_mul(cpus)),
        (Resource::Fsize, limits::COMPILED_BYTES),
        (Resource::Core, 0),
    ] {
        setrlimit(resource, most(limit)).map_err(|error| text(&error))?;
    }
    let mut file = vec![];
    io::stdin().lock().read_to_end(&mut file).map_err(|error| text(&error))?;
    let component = component(&file)?;
    let made = match product {
        Product::Component => {
            is_one(&component)?;
            component.into_owned()
        }
        Product::Code => Engine::new(&sandbox::config())
            .and_then(|engine| engine.precompile_component(&component))
            .map_err(|error| format!("{error:#}"))?,
    };
    io::stdout().lock().write_all(&made).map_err(|error| text(&error))
}
