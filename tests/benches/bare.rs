//! What wasmtime makes of the contract, for a host that is nothing but wasmtime.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "policy",
});
