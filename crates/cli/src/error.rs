//! Errors as the user sees them: a sentence, its causes, a hint.

use std::fmt;

/// Why a command failed.
#[derive(Debug)]
pub struct CliError {
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    code: u8,
}

impl CliError {
    /// With a sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: vec![], hint: None, code: 1 }
    }
    /// With what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// With another exit code than 1.
    #[must_use]
    pub fn exit(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
    /// Writes `error:` and `hint:` lines to standard error.
    pub fn print(&self) {
        eprintln!("{self}");
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

fn chain(e: &dyn std::error::Error) -> Vec<String> {
    let mut out = vec![];
    let mut source = e.source();
    while let Some(s) = source {
        let text = s.to_string();
        if out.last() != Some(&text) {
            out.push(text);
        }
        source = s.source();
    }
    out
}

impl From<kube::Error> for CliError {
    fn from(e: kube::Error) -> Self {
        match e {
            kube::Error::Api(status) => Self::new(sentence(&status.message)),
            e => {
                let causes = chain(&e);
                let why = causes.iter().find(|c| c.contains("refused") || c.contains("No such file"));
                match why {
                    Some(why) => Self {
                        hint: Some("start «multihome serve», or point --kubeconfig at an API that runs".into()),
                        ..Self::new(format!("the API does not answer: {why}"))
                    },
                    None => Self { causes, ..Self::new(e.to_string()) },
                }
            }
        }
    }
}

/// An API's refusal without the words that say nothing to the user.
fn sentence(message: &str) -> String {
    message.replace("Invalid value: ", "").replace("admission webhook denied the request: ", "")
}

macro_rules! from {
    ($($t:ty),*) => { $(impl From<$t> for CliError {
        fn from(e: $t) -> Self {
            Self { causes: chain(&e), ..Self::new(e.to_string()) }
        }
    })* };
}

from!(
    std::io::Error,
    serde_json::Error,
    multihome_vmm::Error,
    multihome_agent::Error,
    multihome_apiserver::Error,
    multihome_apiserver::ServeError,
    multihome_apiserver::CrdError,
    kube::config::KubeconfigError,
    tokio::task::JoinError
);
