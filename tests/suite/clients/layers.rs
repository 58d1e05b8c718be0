//! What the clients' images are made of, and how a tree that came back is compared.
//!
//! Owns: a small layer (busybox), a large one (the standard library and the compiler of the Rust toolchain
//! that runs the test: hundreds of MB in a few hundred files), one tiny layer an architecture.
//! Invariants: tests that run at one time share them; equal trees make equal tars.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, Weak},
};

use super::{desk::program, layout};
use crate::harness::{TempDir, media};

/// The platforms of every index here, under Go's names.
pub const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// The tars, and the trees that they were made of.
pub struct Layers {
    /// busybox with a few of its names: about 2 MB.
    pub small: PathBuf,
    /// About 340 MB.
    pub large: PathBuf,
    small_tree: PathBuf,
    toolchain: PathBuf,
    large_members: Vec<String>,
    folder: TempDir,
}

/// The layers of this run, made when the first test asks; `Err` says what the machine has not got.
pub fn layers() -> Result<Arc<Layers>, String> {
    // Weak, since a static is never dropped: the last test takes the files along.
    static MADE: Mutex<Weak<Layers>> = Mutex::new(Weak::new());
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(layers) = made.upgrade() {
        return Ok(layers);
    }
    let layers = Arc::new(Layers::make()?);
    *made = Arc::downgrade(&layers);
    Ok(layers)
}

impl Layers {
    fn make() -> Result<Layers, String> {
        let busybox = program("busybox").ok_or("no busybox; tests/clients/install brings it")?;
        let rustc = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
        let said = Command::new(rustc).args(["--print", "sysroot"]).output();
        let said = said.map_err(|error| format!("no rustc to make a large layer of: {error}"))?;
        let toolchain = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());

        let folder = TempDir::new("layers");
        let small_tree = folder.path().join("small");
        fs::create_dir_all(small_tree.join("bin")).unwrap();
        fs::copy(busybox, small_tree.join("bin/busybox")).unwrap();
        for name in ["sh", "ls", "cat", "sha256sum"] {
            symlink("busybox", small_tree.join("bin").join(name)).unwrap();
        }
        let small = folder.path().join("small.tar");
        tar(&small, &small_tree, &["bin".to_owned()]);

        let mut large_members = vec!["lib/rustlib".to_owned()];
        for entry in fs::read_dir(toolchain.join("lib")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with("librustc_driver-") {
                large_members.push(format!("lib/{name}"));
            }
        }
        let large = folder.path().join("large.tar");
        tar(&large, &toolchain, &large_members);

        for architecture in ARCHITECTURES {
            let tree = folder.path().join(architecture);
            fs::create_dir_all(tree.join("etc")).unwrap();
            fs::write(tree.join("etc/arch"), architecture).unwrap();
            tar(&folder.path().join(format!("{architecture}.tar")), &tree, &["etc".to_owned()]);
        }
        Ok(Layers { small, large, small_tree, toolchain, large_members, folder })
    }

    /// The layer of one architecture: `/etc/arch` with its name.
    pub fn of(&self, architecture: &str) -> PathBuf {
        self.folder.path().join(format!("{architecture}.tar"))
    }

    /// `root` holds the small and the large layer, byte for byte.
    #[track_caller]
    pub fn assert_unpacked(&self, root: &Path) {
        assert_same(&self.small_tree.join("bin"), &root.join("bin"));
        for member in &self.large_members {
            assert_same(&self.toolchain.join(member), &root.join(member));
        }
    }

    /// An OCI layout: an index, tagged `image`, of an image for each architecture that share a layer.
    pub fn write_index_layout(&self, layout: &Path) {
        let shared = fs::read(&self.small).unwrap();
        let images = ARCHITECTURES.map(|architecture| {
            let own = fs::read(self.of(architecture)).unwrap();
            (
                architecture,
                vec![layout::add(layout, media::LAYER, &shared), layout::add(layout, media::LAYER, &own)],
            )
        });
        layout::write_index(layout, images);
    }
}

/// Two files, links or folders hold the same, all the way down.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) {
    let about = |path: &Path| {
        fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).file_type()
    };
    let (kind, names) = (about(expected), format!("{} and {}", expected.display(), found.display()));
    assert_eq!(kind, about(found), "{names} are of different kinds");
    if kind.is_symlink() {
        assert_eq!(fs::read_link(expected).unwrap(), fs::read_link(found).unwrap(), "{names}");
    } else if kind.is_dir() {
        let children = |path: &Path| -> BTreeSet<_> {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let expected_children = children(expected);
        assert_eq!(expected_children, children(found), "{names}");
        for child in expected_children {
            assert_same(&expected.join(&child), &found.join(&child));
        }
    } else {
        assert!(same_bytes(expected, found), "{names} differ");
    }
}

fn same_bytes(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (fs::File::open(one).unwrap(), fs::File::open(other).unwrap());
    if one.metadata().unwrap().len() != other.metadata().unwrap().len() {
        return false;
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut left).unwrap();
        if count == 0 {
            return true;
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return false;
        }
    }
}

fn tar(to: &Path, tree: &Path, members: &[String]) {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
    let status = command.arg("-cf").arg(to).arg("-C").arg(tree).args(members).status().unwrap();
    assert!(status.success(), "tar of {} ended with {status}", tree.display());
}
