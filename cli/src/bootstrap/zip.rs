//! A zip archive of a few files, stored as they are: what `CreateFunction` takes. The same files give the same bytes, so that their
//! digest says whether anything changed. The format is PKWARE's APPNOTE, 4.3 and 4.4.

/// MS-DOS's first day, 1980-01-01: a real time would change the digest.
const DATE: u16 = 0x0021;
/// Version 2.0, and for what the archive's attributes mean: Unix.
const VERSION: u16 = 20;
const UNIX: u16 = 3 << 8;

pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Permissions, as `chmod` counts them.
    pub(super) mode: u32,
}

/// None where the files need more than 4 GiB, which would be another format.
pub(super) fn archive(files: &[File]) -> Option<Vec<u8>> {
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    for file in files {
        let offset = u32::try_from(archive.len()).ok()?;
        let about = about(file)?;
        archive.extend(0x0403_4b50_u32.to_le_bytes());
        archive.extend(&about);
        archive.extend(file.name.as_bytes());
        archive.extend(&file.bytes);

        directory.extend(0x0201_4b50_u32.to_le_bytes());
        directory.extend((UNIX | VERSION).to_le_bytes());
        directory.extend(&about);
        // No comment, the first disk, no internal attributes.
        directory.extend([0; 6]);
        directory.extend(((0o100_000 | file.mode) << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(file.name.as_bytes());
    }
    let (offset, length) = (u32::try_from(archive.len()).ok()?, u32::try_from(directory.len()).ok()?);
    let count = u16::try_from(files.len()).ok()?.to_le_bytes();
    archive.extend(directory);
    archive.extend(0x0605_4b50_u32.to_le_bytes());
    // This disk, and the one where the directory begins.
    archive.extend([0; 4]);
    archive.extend(count);
    archive.extend(count);
    archive.extend(length.to_le_bytes());
    archive.extend(offset.to_le_bytes());
    archive.extend([0; 2]);
    Some(archive)
}

/// What the header before a file and its entry in the directory have in common.
fn about(file: &File) -> Option<Vec<u8>> {
    let size = u32::try_from(file.bytes.len()).ok()?.to_le_bytes();
    let mut about = Vec::new();
    about.extend(VERSION.to_le_bytes());
    // No flags; method 0, stored; midnight.
    about.extend([0; 6]);
    about.extend(DATE.to_le_bytes());
    about.extend(crc32(&file.bytes).to_le_bytes());
    about.extend(size);
    about.extend(size);
    about.extend(u16::try_from(file.name.len()).ok()?.to_le_bytes());
    about.extend([0; 2]);
    Some(about)
}

fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    });
    !bytes.iter().fold(!0, |crc, byte| table[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn files() -> Vec<File> {
        vec![
            File { name: "bootstrap".to_owned(), bytes: b"\x7fELF and so on".to_vec(), mode: 0o755 },
            File { name: "pipelines/0.toml".to_owned(), bytes: Vec::new(), mode: 0o644 },
        ]
    }

    #[test]
    fn the_checksum_is_zips() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        assert_eq!(archive(&files()), archive(&files()));
    }

    /// Python's reader stands for everybody else's.
    #[test]
    fn others_read_it_with_names_bytes_and_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.zip");
        std::fs::write(&path, archive(&files()).unwrap()).unwrap();
        let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\n\
                      for i in z.infolist(): print(i.filename, len(z.read(i)), oct(i.external_attr >> 16))";
        let output = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, "bootstrap 14 0o100755\npipelines/0.toml 0 0o100644\n", "{output:?}");
    }
}
