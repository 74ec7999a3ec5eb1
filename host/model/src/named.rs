//! Values that job files, policies and output know by a name.

/// Gives an enumeration its names.
macro_rules! named {
    ($type:ty, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// The name used in job files, policies and output.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Finds the value of a name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
}
pub(crate) use named;
