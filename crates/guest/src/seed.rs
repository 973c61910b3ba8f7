//! The NoCloud seed: the files that cloud-init reads from a disk labelled `cidata`, and that disk.

use serde_json::json;

use crate::yaml::yaml;
use crate::{File, Guest, cloudinit, iso9660, vendor};

/// The volume label by which cloud-init's NoCloud source finds the seed.
pub const LABEL: &str = "cidata";

/// The files of a seed, with network-config version 2: `meta-data`, `user-data`, `vendor-data`, `network-config`.
pub fn files(guest: &Guest) -> Vec<File> {
    with(guest, yaml(&cloudinit::v2(guest)), &cloudinit::left_out_by_v2(guest))
}

/// The same with network-config version 1, for cloud-init before 22.2.
pub fn files_v1(guest: &Guest) -> Vec<File> {
    with(guest, yaml(&cloudinit::v1(guest)), &[])
}

/// An ISO 9660 image with the files of [`files`], to be attached to the VM as a read-only disk or CD-ROM. Same guest, same
/// bytes.
pub fn image(guest: &Guest) -> Vec<u8> {
    iso9660(&files(guest))
}

/// An ISO 9660 image labelled [`LABEL`] with these files in its root. Names are kept by Rock Ridge and by Joliet.
pub fn iso9660(files: &[File]) -> Vec<u8> {
    let list: Vec<(&str, &[u8])> = files.iter().map(|f| (f.path.as_str(), f.content.as_bytes())).collect();
    iso9660::image(LABEL, &list)
}

fn with(guest: &Guest, network_config: String, left_out: &[cloudinit::Left]) -> Vec<File> {
    let mut meta = json!({"instance-id": guest.instance_id, "local-hostname": guest.name});
    if !guest.ssh_keys.is_empty() {
        meta["public-keys"] = json!(guest.ssh_keys);
    }
    let file = |name: &str, content: String| File::new(name, 0o644, content);
    let (network_config, vendor_data) = match &guest.network_config {
        Some(own) => (own.clone(), vendor::NOTHING.to_owned()),
        None => (network_config, vendor::data(guest, left_out)),
    };
    vec![
        file("meta-data", yaml(&meta)),
        file("user-data", guest.user_data.clone().unwrap_or_else(|| vendor::NOTHING.into())),
        file("vendor-data", vendor_data),
        file("network-config", network_config),
    ]
}
