//! Named points of a run at which the tests end the process, to see what is found afterwards. Without the feature
//! `failpoints` they are nothing.

#[cfg(feature = "failpoints")]
static REACHED: std::sync::OnceLock<fn(&str)> = std::sync::OnceLock::new();

/// Has something done at every point from now on.
#[cfg(feature = "failpoints")]
pub fn at_every_point(act: fn(&str)) {
    // A second caller changes nothing.
    REACHED.get_or_init(|| act);
}

/// What of the environment a process gets that otherwise has none: which points to act at.
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

/// Says that a point is reached.
pub fn reach(point: &str) {
    #[cfg(feature = "failpoints")]
    if let Some(act) = REACHED.get() {
        act(point);
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
}
