//! What tests see of the inside of this crate: the store with a core's `Io` under it, and the parsers of what
//! comes from a socket or a state file. No part of the API.

pub use crate::{
    cache::{
        Budget, Found, Header, Index, Item, Kind, Lease, Leases, Loaded, Log, NoRoom, Opened, Place, Policy,
        Read, Record as IndexRecord, Refused, Unwritten, Victim, read_frames,
    },
    fill::{Journal, read_journal as read_fill_journal},
    http::{BodyLength, Chunked, Head, Parsed, parse as parse_head},
    io::{Call, Driver, Faults, File, Fs, Io, Pool, probe, spawn_core},
    mark::Mark,
    store::{
        Record, Step, Store, StoreCounters, StoreSettings, Told, Upload, clear_disk_error, disk_error_marked,
        mark_disk_error, open, read_records,
    },
};
