//! Whatever is seen, in whatever state: no panic, nothing twice, and what must hold holds.
