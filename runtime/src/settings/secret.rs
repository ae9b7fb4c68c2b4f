//! The secret that `--dev` creates in the data directory, so that Carillon can be tried out without setting one.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A secret is far shorter. A longer file is read only up to this.
const FILE_BYTES_MAX: u64 = 4_096;

/// The path of the secret's file.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("auth-secret")
}

/// Reads the secret in `data_dir`; `None` if there is none.
///
/// # Errors
/// When it cannot be read, or is too short.
pub fn read(data_dir: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path(data_dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    if text.trim().len() < super::list::SECRET_BYTES_MIN {
        return Err(io::Error::new(ErrorKind::InvalidData, "is too short for a secret: delete it"));
    }
    Ok(Some(text.trim().to_owned()))
}

/// Reads the secret in `data_dir`, and creates directory and secret if they are missing. Several processes that start
/// at once get the same secret.
///
/// # Errors
/// When it cannot be read or written.
pub fn read_or_make(data_dir: &Path) -> io::Result<String> {
    if let Some(secret) = read(data_dir)? {
        return Ok(secret);
    }
    std::fs::create_dir_all(data_dir)?;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // A hard link puts the complete file in place atomically, and fails if another process was first.
    let unfinished = data_dir.join(format!("auth-secret.{}", &secret[..16]));
    let linked =
        write_private(&unfinished, &secret).and_then(|()| std::fs::hard_link(&unfinished, path(data_dir)));
    std::fs::remove_file(&unfinished)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => read(data_dir)?.ok_or_else(|| io::Error::from(ErrorKind::NotFound)),
    }
}

fn write_private(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_secret_is_made_once_and_private() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let data_dir = directory.path().join("deeper");
        assert_eq!(read(&data_dir).expect("readable"), None);
        let makers: Vec<_> = (0..8)
            .map(|_| {
                let data_dir = data_dir.clone();
                std::thread::spawn(move || read_or_make(&data_dir).expect("made"))
            })
            .collect();
        let secrets: Vec<String> = makers.into_iter().map(|maker| maker.join().expect("joined")).collect();
        assert!(
            secrets.iter().all(|secret| *secret == secrets[0] && secret.len() == 64),
            "all callers must get the same secret"
        );
        assert_eq!(read(&data_dir).expect("readable"), Some(secrets[0].clone()));
        let mode = std::fs::metadata(path(&data_dir)).expect("the secret file exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(&data_dir).expect("listed").count(),
            1,
            "an unfinished file is left in the directory"
        );
    }

    #[test]
    fn a_truncated_secret_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(path(directory.path()), "short").expect("written");
        assert_eq!(read_or_make(directory.path()).expect_err("refused").kind(), ErrorKind::InvalidData);
    }
}
