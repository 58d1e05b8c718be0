//! The files that an `[[upstream]]` names: read once, at the start, and never more of them than is allowed.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt, path::Path};

use controlplane::upstream::Secret;

use crate::limits::{PEM_FILE_BYTES, SECRET_FILE_BYTES};

/// A password or a token: the file's only line.
///
/// Errors: why it can't be that. Beside it, what is wrong with who may read it.
pub fn secret(path: &Path) -> Result<(Secret, Option<String>), String> {
    let (text, warning) = private_text(path, SECRET_FILE_BYTES)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err("it is empty".to_owned());
    }
    if line.contains(['\n', '\r', '\0']) {
        return Err("it has more than one line".to_owned());
    }
    Ok((Secret::new(line), warning))
}

/// A private key in PEM.
pub fn key(path: &Path) -> Result<(Secret, Option<String>), String> {
    let (text, warning) = private_text(path, PEM_FILE_BYTES)?;
    if !text.contains("PRIVATE KEY-----") {
        return Err("there is no private key in PEM in it".to_owned());
    }
    Ok((Secret::new(text), warning))
}

/// Certificates in PEM.
pub fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let (bytes, _) = bytes(path, PEM_FILE_BYTES)?;
    let mark = b"-----BEGIN CERTIFICATE-----";
    if !bytes.windows(mark.len()).any(|window| window == mark) {
        return Err("there is no certificate in PEM in it".to_owned());
    }
    Ok(bytes)
}

fn private_text(path: &Path, most: usize) -> Result<(String, Option<String>), String> {
    let (bytes, mode) = bytes(path, most)?;
    let text = String::from_utf8(bytes).map_err(|_not_text| "it is not UTF-8".to_owned())?;
    let warning = (mode & 0o004 != 0).then(|| {
        format!(
            "{}: everybody on this machine can read it (mode {:03o}); chmod o= would end that",
            path.display(),
            mode & 0o777
        )
    });
    Ok((text, warning))
}

fn bytes(path: &Path, most: usize) -> Result<(Vec<u8>, u32), String> {
    let read = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        let mut bytes = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    let (bytes, mode) = read().map_err(|error: std::io::Error| format!("it can't be read: {error}"))?;
    if bytes.len() > most {
        return Err(format!("it is longer than {most} bytes"));
    }
    Ok((bytes, mode))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(what: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("gantry-{what}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
            let path = self.0.join("file");
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_secret_is_one_line_without_its_end() {
        let folder = Folder::new("secrets");
        for (content, revealed) in
            [("hunter2", "hunter2"), ("hunter2\n", "hunter2"), ("a b\r\n", "a b"), (" x ", " x ")]
        {
            let (secret, warning) = secret(&folder.file(content, 0o600)).unwrap();
            assert_eq!((secret.reveal(), warning), (revealed, None));
        }
        for wrong in ["", "\n", "one\ntwo", "one\n\n"] {
            assert!(secret(&folder.file(wrong, 0o600)).is_err(), "{wrong:?}");
        }
        assert!(secret(&folder.file([0xff, 0xfe], 0o600)).is_err());
        assert!(secret(&folder.0.join("none")).unwrap_err().starts_with("it can't be read: "));
    }

    #[test]
    fn who_can_read_it_is_told() {
        let folder = Folder::new("modes");
        for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
            let (_, warning) = secret(&folder.file("x", mode)).unwrap();
            assert_eq!(warning.is_some(), warned, "{mode:o}");
            assert!(warning.is_none_or(|warning| warning.contains(&format!("{mode:o}"))));
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = Folder::new("bounds");
        let long = "x".repeat(SECRET_FILE_BYTES);
        assert_eq!(secret(&folder.file(&long, 0o600)).unwrap().0.reveal(), long);
        assert!(secret(&folder.file(format!("{long}x"), 0o600)).unwrap_err().contains("longer"));
        let mut pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
        pem.resize(PEM_FILE_BYTES, b'\n');
        assert_eq!(certificates(&folder.file(&pem, 0o644)).unwrap().len(), PEM_FILE_BYTES);
        pem.push(b'\n');
        assert!(certificates(&folder.file(&pem, 0o644)).unwrap_err().contains("longer"));
        assert!(certificates(&folder.file("no", 0o644)).is_err() && key(&folder.file("no", 0o600)).is_err());
    }
}
