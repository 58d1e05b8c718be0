//! What the tests of this crate see of its inside: the store with a core's `Io` under it. No part of the API.

pub use crate::{
    io::{Call, Driver, Faults, File, Fs, Io, Pool, probe, spawn_core},
    store::{
        Store, StoreCounters, StoreSettings, Upload, clear_disk_error, disk_error_marked, mark_disk_error,
        open,
    },
};
