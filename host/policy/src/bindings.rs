//! What wasmtime makes of `wit/policy.wit`.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "policy",
    // What the host hands over is lent, not copied.
    ownership: Borrowing { duplicate_if_necessary: true },
    additional_derives: [PartialEq, Clone],
});
