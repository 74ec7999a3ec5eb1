//! Hostile: a sound component, but no policy.

mod other {
    wit_bindgen::generate!({ path: "wit", world: "other" });
}

struct Probe;

impl other::Guest for Probe {
    fn greet() -> String {
        "I am no policy".into()
    }
}

other::export!(Probe with_types_in other);
