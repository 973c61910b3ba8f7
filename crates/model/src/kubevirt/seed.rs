//! The volume by which a manifest asks for a NoCloud seed.

use base64::Engine;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rest, VirtualMachineInstanceSpec};
use crate::Violations;

/// What cloud-init in the guest is handed on a disk labelled `cidata`. `{}` is enough: the rest follows from the VM's NICs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct CloudInitNoCloud {
    /// user-data as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// user-data in base64; UTF-8 text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_base64: Option<String>,
    /// A Secret of the VM's namespace with user-data under the key `userdata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretName>,
    /// network-config as text, handed on instead of the one that follows from the VM's NICs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data: Option<String>,
    /// The same in base64; UTF-8 text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_base64: Option<String>,
    /// A Secret of the VM's namespace with network-config under the key `networkdata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_secret_ref: Option<SecretName>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A Secret by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    pub name: String,
}

/// Where a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: none was given.
    None,
    /// In the manifest.
    Text(String),
    /// In a Secret of this name.
    Secret(String),
}

impl CloudInitNoCloud {
    /// Where the user's user-data is.
    ///
    /// # Errors
    /// A sentence, where it is given twice or is no text.
    pub fn user_data(&self) -> Result<Source, String> {
        let given = Given {
            text: ("userData", &self.user_data),
            base64: ("userDataBase64", &self.user_data_base64),
            secret: ("secretRef", &self.secret_ref),
        };
        given.source()
    }

    /// Where the user's network-config is.
    ///
    /// # Errors
    /// As [`CloudInitNoCloud::user_data`].
    pub fn network_data(&self) -> Result<Source, String> {
        let given = Given {
            text: ("networkData", &self.network_data),
            base64: ("networkDataBase64", &self.network_data_base64),
            secret: ("networkDataSecretRef", &self.network_data_secret_ref),
        };
        given.source()
    }
}

/// The three ways to give a text, by their fields' names.
struct Given<'a> {
    text: (&'static str, &'a Option<String>),
    base64: (&'static str, &'a Option<String>),
    secret: (&'static str, &'a Option<SecretName>),
}

impl Given<'_> {
    fn source(&self) -> Result<Source, String> {
        match (self.text.1, self.base64.1, self.secret.1) {
            (None, None, None) => Ok(Source::None),
            (Some(t), None, None) => Ok(Source::Text(t.clone())),
            (None, Some(b), None) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(b.split_whitespace().collect::<String>());
                let text = bytes.ok().and_then(|b| String::from_utf8(b).ok());
                text.map(Source::Text).ok_or_else(|| format!("{} is not UTF-8 text in base64", self.base64.0))
            }
            (None, None, Some(s)) => Ok(Source::Secret(s.name.clone())),
            _ => Err(format!("keep one of {}, {} and {}", self.text.0, self.base64.0, self.secret.0)),
        }
    }
}

impl VirtualMachineInstanceSpec {
    /// The seed that the manifest asks for.
    pub fn seed(&self) -> Option<&CloudInitNoCloud> {
        self.volumes.iter().find_map(|v| v.cloud_init_no_cloud.as_ref())
    }
}

/// What of the volumes cannot be handed to a guest.
pub(super) fn check(at: &str, spec: &VirtualMachineInstanceSpec, v: &mut Violations) {
    let mut seen = false;
    for (i, volume) in spec.volumes.iter().enumerate() {
        let field = format!("{at}.volumes[{i}]");
        if volume.rest.contains_key("cloudInitConfigDrive") {
            v.add(
                format!("{field}.cloudInitConfigDrive"),
                "a config drive is not offered: use cloudInitNoCloud, or no volume at all and cloud-init's OpenStack source",
            );
        }
        let Some(seed) = &volume.cloud_init_no_cloud else { continue };
        if std::mem::replace(&mut seen, true) {
            v.add(&field, format!("volume {:?} is a second seed: a VM has one cloudInitNoCloud at most", volume.name));
        }
        for source in [seed.user_data(), seed.network_data()] {
            v.take(&format!("{field}.cloudInitNoCloud"), source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_instance;
    use super::*;
    use serde_json::json;

    fn seed(v: serde_json::Value) -> CloudInitNoCloud {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn text_is_taken_from_one_place() {
        assert_eq!(seed(json!({})).user_data(), Ok(Source::None));
        assert_eq!(seed(json!({"userData": "a"})).user_data(), Ok(Source::Text("a".into())));
        let wrapped = json!({"userDataBase64": "I2Nsb3Vk\nLWNvbmZpZwo="});
        assert_eq!(seed(wrapped).user_data(), Ok(Source::Text("#cloud-config\n".into())));
        assert_eq!(seed(json!({"secretRef": {"name": "s"}})).user_data(), Ok(Source::Secret("s".into())));
        let both = seed(json!({"networkData": "a", "networkDataBase64": "YQ=="}));
        assert_eq!(
            both.network_data().unwrap_err(),
            "keep one of networkData, networkDataBase64 and networkDataSecretRef"
        );
        assert_eq!(
            seed(json!({"userDataBase64": "!"})).user_data().unwrap_err(),
            "userDataBase64 is not UTF-8 text in base64"
        );
    }

    #[test]
    fn what_cannot_be_handed_over_is_refused() {
        let spec = serde_json::from_value(json!({"domain": {}, "volumes": [
            {"name": "a", "cloudInitNoCloud": {"userData": "x", "secretRef": {"name": "s"}}},
            {"name": "b", "cloudInitNoCloud": {}},
            {"name": "c", "cloudInitConfigDrive": {"userData": "x"}},
        ]}))
        .unwrap();
        let v = check_instance("web", &spec).to_string();
        assert!(v.contains("keep one of userData, userDataBase64 and secretRef"), "{v}");
        assert!(v.contains("volume \"b\" is a second seed"), "{v}");
        assert!(v.contains("a config drive is not offered"), "{v}");
    }
}
