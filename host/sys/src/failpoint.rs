//! Named points of a run at which the tests end the process, to see what is found afterwards. Without the feature
//! `failpoints`, a point does nothing.

#[cfg(feature = "failpoints")]
static REACHED: std::sync::OnceLock<fn(&str)> = std::sync::OnceLock::new();

/// Sets a function that is called at every point from now on.
#[cfg(feature = "failpoints")]
pub fn at_every_point(act: fn(&str)) {
    // The first function stays.
    REACHED.get_or_init(|| act);
}

/// The variables that say at which points to act, for a process that gets no others.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let is_ours = |(key, _): &(String, String)| {
        cfg!(feature = "failpoints")
            && matches!(
                key.as_str(),
                "QHOST_KILL_AT"
                    | "QHOST_SLOW_AT"
                    | "QHOST_FILL_AT"
                    | "QHOST_FILL"
                    | "QHOST_TIMES_OF_POINTS"
            )
    };
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .filter(is_ours)
}

/// Acts on reaching a point.
pub fn reach(point: &str) {
    #[cfg(feature = "failpoints")]
    if let Some(act) = REACHED.get() {
        act(point);
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
}
