//! The contract's bindings by wasmtime, for a host that is nothing but wasmtime.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "policy",
});
