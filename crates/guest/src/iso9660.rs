//! Writes an ISO 9660 image with a few files in its root (ECMA-119), whose names are kept by Rock Ridge (IEEE P1282, entries
//! `NM` and `PX`) for Linux and by Joliet for everybody else. No clock: all dates are 2000-01-01.

/// Bytes in a sector.
const SECTOR: usize = 2048;
/// The first 16 sectors are left to the system (ECMA-119 section 6.2.1); then come the descriptors.
const PATH_TABLES: u32 = 19;
const ROOT: u32 = PATH_TABLES + 4;

/// Which names a directory has.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    /// 8.3 with Rock Ridge beside them.
    Primary,
    /// UCS-2.
    Joliet,
}

/// An image with these files. `label` has at most 16 characters (Joliet's limit), all ASCII.
pub(crate) fn image(label: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    // The two directories' lengths decide where the first file begins, and do not depend on it.
    let lengths = [Names::Primary, Names::Joliet].map(|n| sectors(directory(n, 0, 0, files, 0).len()));
    let joliet_root = ROOT + lengths[0];
    let data = joliet_root + lengths[1];
    let total = files.iter().fold(data, |at, (_, d)| at + sectors(d.len()));

    let mut out = vec![0; 16 * SECTOR];
    let roots = [(Names::Primary, ROOT, lengths[0]), (Names::Joliet, joliet_root, lengths[1])];
    for (i, (names, root, length)) in (0u32..).zip(roots) {
        sector(&mut out, descriptor(names, label, total, PATH_TABLES + 2 * i, root, length * SECTOR as u32));
    }
    let mut end = vec![255];
    end.extend(b"CD001\x01");
    sector(&mut out, end);
    for (_, root, _) in roots {
        sector(&mut out, path_table(&root.to_le_bytes(), &1u16.to_le_bytes()));
        sector(&mut out, path_table(&root.to_be_bytes(), &1u16.to_be_bytes()));
    }
    for (names, root, length) in roots {
        sector(&mut out, directory(names, root, length * SECTOR as u32, files, data));
    }
    for (_, d) in files {
        sector(&mut out, d.to_vec());
    }
    out
}

fn sectors(bytes: usize) -> u32 {
    bytes.div_ceil(SECTOR) as u32
}

/// Appends whole sectors.
fn sector(out: &mut Vec<u8>, mut bytes: Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    out.append(&mut bytes);
}

fn both16(v: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (v.to_le_bytes(), v.to_be_bytes());
    [a, b, c, d]
}

fn both32(v: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (v.to_le_bytes(), v.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// Text padded to a length, with spaces in the volume's own characters.
fn padded(names: Names, text: &str, length: usize) -> Vec<u8> {
    match names {
        Names::Primary => {
            let mut v = text.as_bytes().to_vec();
            v.resize(length, b' ');
            v
        }
        Names::Joliet => {
            let mut v = ucs2(text);
            while v.len() < length {
                v.extend([0, b' ']);
            }
            v.truncate(length);
            v
        }
    }
}

/// A primary or supplementary volume descriptor (ECMA-119 sections 8.4 and 8.5).
fn descriptor(names: Names, label: &str, total: u32, tables: u32, root: u32, length: u32) -> Vec<u8> {
    let mut d = vec![if names == Names::Primary { 1 } else { 2 }];
    d.extend(b"CD001\x01\0");
    d.extend(padded(names, "", 32));
    d.extend(padded(names, label, 32));
    d.extend([0; 8]);
    d.extend(both32(total));
    // Joliet's escape sequence: UCS-2 level 3.
    let mut escape = if names == Names::Joliet { b"%/E".to_vec() } else { vec![] };
    escape.resize(32, 0);
    d.extend(escape);
    d.extend([both16(1), both16(1), both16(SECTOR as u16)].concat());
    // The root's entry in the path table: 10 bytes.
    d.extend(both32(10));
    d.extend(tables.to_le_bytes());
    d.extend([0; 4]);
    d.extend((tables + 1).to_be_bytes());
    d.extend([0; 4]);
    d.extend(record(&[0], root, length, true, &[]));
    d.extend(padded(names, "", 4 * 128 + 3 * 37));
    d.truncate(813);
    let date = b"2000010100000000\0";
    let never = b"0000000000000000\0";
    d.extend([date.as_slice(), date, never, never].concat());
    d.push(1);
    d
}

/// The root alone (ECMA-119 section 9.4).
fn path_table(root: &[u8; 4], parent: &[u8; 2]) -> Vec<u8> {
    let mut t = vec![1, 0];
    t.extend(root);
    t.extend(parent);
    t.extend([0, 0]);
    t
}

/// A directory record (ECMA-119 section 9.1), with what Rock Ridge adds.
fn record(name: &[u8], at: u32, length: u32, is_dir: bool, system_use: &[u8]) -> Vec<u8> {
    let padding = usize::from(name.len().is_multiple_of(2));
    let size = 33 + name.len() + padding + system_use.len();
    // An odd length is made even.
    let size = size + size % 2;
    let mut r = vec![size as u8, 0];
    r.extend(both32(at));
    r.extend(both32(length));
    r.extend([100, 1, 1, 0, 0, 0, 0]);
    r.extend([if is_dir { 2 } else { 0 }, 0, 0]);
    r.extend(both16(1));
    r.push(name.len() as u8);
    r.extend(name);
    r.extend(vec![0; padding]);
    r.extend(system_use);
    r.resize(size, 0);
    r
}

/// The root directory: itself, its parent, and the files in the order of their names. No record crosses a sector.
fn directory(names: Names, root: u32, length: u32, files: &[(&str, &[u8])], data: u32) -> Vec<u8> {
    let rock = names == Names::Primary;
    let mut own = vec![];
    if rock {
        own.extend(b"SP\x07\x01\xbe\xef\x00");
        own.extend(posix(0o040_555, 2));
        own.extend(b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A");
    }
    let parent = if rock { posix(0o040_555, 2) } else { vec![] };
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = vec![];
    let mut at = data;
    for (i, (name, content)) in files.iter().enumerate() {
        let (id, extra) = match names {
            // Unique whatever the name is; Rock Ridge has the real one.
            Names::Primary => (format!("FILE{i:04}.;1").into_bytes(), [posix(0o100_444, 1), real_name(name)].concat()),
            Names::Joliet => (ucs2(name), vec![]),
        };
        entries.push((id.clone(), record(&id, at, content.len() as u32, false, &extra)));
        at += sectors(content.len());
    }
    entries.sort();
    let mut out = record(&[0], root, length, true, &own);
    out.extend(record(&[1], root, length, true, &parent));
    for (_, r) in entries {
        if out.len() % SECTOR + r.len() > SECTOR {
            out.resize(out.len().next_multiple_of(SECTOR), 0);
        }
        out.extend(r);
    }
    out
}

/// Mode, links and owner of a file.
fn posix(mode: u32, links: u32) -> Vec<u8> {
    let mut px = b"PX\x24\x01".to_vec();
    px.extend([both32(mode), both32(links), both32(0), both32(0)].concat());
    px
}

fn real_name(name: &str) -> Vec<u8> {
    let mut nm = vec![b'N', b'M', 5 + name.len() as u8, 1, 0];
    nm.extend(name.bytes());
    nm
}
