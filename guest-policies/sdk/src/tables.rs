//! The operator's tables, which a policy names in [`About::tables`](crate::About). In native unit tests [`put`] fills them.

use serde_json::Value;

/// The value of a key; `None` where the table has no such key.
pub fn get(table: &str, key: &str) -> Option<Value> {
    // The host hands over JSON that it has read itself.
    serde_json::from_str(&text(table, key)?).ok()
}

#[cfg(target_arch = "wasm32")]
fn text(table: &str, key: &str) -> Option<String> {
    crate::bindings::qhost::policy::tables::get(table, key)
}

#[cfg(not(target_arch = "wasm32"))]
thread_local! {
    static TABLES: std::cell::RefCell<std::collections::HashMap<(String, String), String>> =
        std::cell::RefCell::default();
}

#[cfg(not(target_arch = "wasm32"))]
fn text(table: &str, key: &str) -> Option<String> {
    TABLES.with_borrow(|tables| tables.get(&(table.to_owned(), key.to_owned())).cloned())
}

/// Puts a value into a table of this thread's unit tests.
#[cfg(not(target_arch = "wasm32"))]
pub fn put(table: &str, key: &str, value: &Value) {
    TABLES.with_borrow_mut(|tables| {
        tables.insert((table.to_owned(), key.to_owned()), value.to_string());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there() {
        put("images", "aa", &serde_json::json!({"os": "debian"}));
        assert_eq!(get("images", "aa").unwrap()["os"], "debian");
        assert_eq!((get("images", "bb"), get("other", "aa")), (None, None));
    }
}
