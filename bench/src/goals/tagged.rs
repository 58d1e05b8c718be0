//! A manifest by its tag, beside a blob of 4 KiB.

use oci::MediaType;

use crate::{
    args::Settings,
    image::Document,
    result::{Case, Round},
    scenarios::{Scenario, get, pulls},
    subject::{REPOSITORY, Subject},
};

const TAG: &str = "latest";
const LAYERS: u64 = 8;
const LAYER_BYTES: u64 = 1024;
const CASES: [&str; 2] = ["4 KiB blob", "manifest by tag"];

/// The scenario.
pub(super) struct Tagged {
    settings: Settings,
}

impl Tagged {
    pub fn new(settings: Settings) -> Tagged {
        Tagged { settings }
    }

    fn manifest(&self, subject: &mut Subject) -> Result<(Document, Document), String> {
        let seeds = (1..=LAYERS).map(|index| self.settings.seed + index);
        let layers = seeds.map(|seed| subject.give(seed, LAYER_BYTES)).collect::<Result<Vec<_>, _>>()?;
        let config = Document::config(&layers);
        let manifest = Document::manifest(&config, &layers, 0);
        Ok((config, manifest))
    }
}

impl Scenario for Tagged {
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str| {
            let mut case = self.settings.case("manifests", name.to_owned());
            case.connections = self.settings.connections.first().copied();
            case
        };
        CASES.map(case).to_vec()
    }

    fn prepare(&mut self, _case: &Case, subject: &mut Subject) -> Result<(), String> {
        subject.give(self.settings.seed, self.settings.sizes[0])?;
        let (config, manifest) = self.manifest(subject)?;
        config.push_blob(&mut subject.registry)?;
        manifest.push_manifest(&mut subject.registry, TAG)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let (request, length, digest) = if case.name == CASES[0] {
            let blob = subject.give(self.settings.seed, self.settings.sizes[0])?;
            (get(subject, &subject.blob_target(&blob), ""), blob.length, blob.digest)
        } else {
            let (_, manifest) = self.manifest(subject)?;
            let accept = format!("Accept: {}\r\n", MediaType::OCI_MANIFEST.as_str());
            let request = get(subject, &format!("/v2/{REPOSITORY}/manifests/{TAG}"), &accept);
            (request, manifest.bytes.len() as u64, manifest.digest)
        };
        let every = self.settings.verify_every;
        let scripts = pulls(case.connections.unwrap_or(1), &request, length, digest, every);
        let plan = self.settings.plan(case, subject);
        Ok(subject.load(&case.name, &plan, &self.settings.pins(), scripts)?.round)
    }
}
