//! What a 201 and a 202 mean (storage.md): kills, restarts, full and damaged disks.

mod commits;
mod damage;
mod disk_full;
mod flushes;
mod kill;
mod lock;
mod races;
mod refused_writes;
mod scrub;
mod sessions;
mod start;
mod state_files;
mod stop;
