//! Cold reads of large blobs, beside what the disk gives to `fio` and what the network gives to hot ones.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use crate::{
    args::Settings,
    result::{Case, Round},
    scenarios::{Cold, Once, Scenario, size},
    subject::Subject,
};

/// The scenario.
pub(super) struct ColdReads {
    settings: Settings,
    /// What lies on the server's disk, a blob for each connection.
    cold: Option<Arc<Cold>>,
}

impl ColdReads {
    /// With a blob of the first size for each connection. On one server.
    pub fn new(settings: Settings) -> ColdReads {
        ColdReads { settings, cold: None }
    }
}

impl Scenario for ColdReads {
    fn cases(&self) -> Vec<Case> {
        let (length, count) = (self.settings.sizes[0], self.settings.connections[0]);
        let mut case = self.settings.case("cold", format!("{count} × {}", size(length)));
        (case.size_bytes, case.connections) = (Some(length), Some(count));
        vec![case]
    }

    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String> {
        let (length, count) = (case.size_bytes.unwrap_or(0), case.connections.unwrap_or(1));
        self.cold = Some(Arc::new(Cold::give(subject, self.settings.seed, count, length, u64::MAX)?));
        Ok(())
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let cold = self.cold.clone().ok_or("the blobs were not prepared")?;
        let count = case.connections.unwrap_or(1) as usize;
        let hot = || (0..count).map(|_| Once::boxed(cold.exchange(0))).collect::<Vec<_>>();
        self.settings.once(case, subject, hot())?;
        let hot_bytes_per_s = self.settings.once(case, subject, hot())?.bytes_per_s();
        cold.drop_pages()?;
        let fio_bytes_per_s = fio(&cold.paths())?;
        cold.drop_pages()?;
        let scripts = (0..count).map(|index| Once::boxed(cold.exchange(index))).collect();
        let mut round = self.settings.once(case, subject, scripts)?;
        let bound = fio_bytes_per_s.min(hot_bytes_per_s);
        let ratio = round.bytes_per_s() / bound.max(1.0);
        round.figures.insert("fio_bytes_per_s".to_owned(), fio_bytes_per_s);
        round.figures.insert("hot_bytes_per_s".to_owned(), hot_bytes_per_s);
        round.figures.insert("cold_to_bound_ratio".to_owned(), ratio);
        Ok(round)
    }
}

/// What `fio` reads of these files past the page cache, all at the same time.
///
/// Errors: a sentence: it is not there, or the file system can't do it.
fn fio(paths: &[&Path]) -> Result<f64, String> {
    let mut command = Command::new("fio");
    command.args(["--readonly", "--rw=read", "--direct=1", "--bs=1M", "--ioengine=libaio", "--iodepth=4"]);
    command.args(["--group_reporting", "--output-format=json"]);
    for (index, path) in paths.iter().enumerate() {
        command.arg(format!("--name=blob{index}")).arg(format!("--filename={}", path.display()));
    }
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("fio is needed: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    // Warnings may stand before the document.
    let json = said.find('{').map_or("", |start| &said[start..]);
    let parsed: serde_json::Value = serde_json::from_str(json).map_err(|_| {
        format!("fio ({}) said {:?}", output.status, String::from_utf8_lossy(&output.stderr).trim())
    })?;
    let rate = parsed["jobs"][0]["read"]["bw_bytes"].as_f64().filter(|rate| *rate > 0.0);
    rate.ok_or_else(|| "fio read nothing".to_owned())
}
