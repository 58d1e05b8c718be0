//! The wire, end-point by end-point: the OCI distribution-spec 1.1.1 and main, RFC 9110, RFC 9112.
//!
//! A module is called by the spec's ids of what it is about; those without an id hold for several, or for what
//! the spec does not have.

mod catalog;
mod end_10_blob_delete;
mod end_11_mount;
mod end_12_referrers;
mod end_1_base;
mod end_2_3_conditional;
mod end_2_blobs;
mod end_2_ranges;
mod end_3_7_9_manifests;
mod end_4_5_6_13_14_uploads;
mod end_5_upload_races;
mod end_7_manifest_rules;
mod end_8_tags;
mod errors;
mod permission;
