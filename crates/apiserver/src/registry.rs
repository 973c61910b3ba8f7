//! The table of served types: found by group, version and plural, with what was compiled from their schemas.

use crate::builtin::{self, EVENTS_GROUP};
use crate::jsonpath::{JsonPath, PathError};
use crate::meta;
use crate::resource::ResourceType;
use crate::schema::{Schema, SchemaError};
use crate::store::state::TypeId;
use std::collections::HashMap;

/// In which ways kinds differ from one another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// `metadata.generation` counts changes of the wish.
    pub generation: bool,
    /// A PUT may leave the resource version out.
    pub unconditional_update: bool,
    /// A PUT of an absent object creates it.
    pub create_on_update: bool,
    /// Strategic merge patches are accepted.
    pub strategic_patch: bool,
    /// A write to `/status` leaves metadata alone.
    pub status_keeps_metadata: bool,
    /// A new object may come with a status.
    pub status_on_create: bool,
    /// Not to be written by clients.
    pub read_only: bool,
    /// What a name may be.
    pub name: fn(&str) -> Result<(), String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            generation: true,
            unconditional_update: false,
            create_on_update: false,
            strategic_patch: false,
            status_keeps_metadata: true,
            status_on_create: false,
            read_only: false,
            name: meta::dns_subdomain,
        }
    }
}

/// A type as it is served.
#[derive(Debug)]
pub(crate) struct Served {
    pub spec: ResourceType,
    pub schema: Schema,
    pub rules: Rules,
    /// Parallel to `spec.columns`.
    pub paths: Vec<JsonPath>,
    pub built_in: bool,
}

impl Served {
    pub fn new(spec: ResourceType, schema: Schema, rules: Rules) -> Self {
        let paths = spec
            .columns
            .iter()
            .map(|c| JsonPath::parse(&c.json_path).expect("the columns of built-in kinds parse: a test parses them"))
            .collect();
        Self { spec, schema, rules, paths, built_in: true }
    }

    fn custom(spec: ResourceType) -> Result<Self, RegistryError> {
        let fail = |source| RegistryError::Schema { kind: spec.kind.clone(), source };
        let schema = Schema::compile(&spec.schema).map_err(fail)?;
        let paths = spec.columns.iter().map(|c| JsonPath::parse(&c.json_path)).collect::<Result<_, _>>();
        let paths = paths.map_err(|source| RegistryError::Column { kind: spec.kind.clone(), source })?;
        Ok(Self { schema, rules: Rules::default(), paths, built_in: false, spec })
    }

    /// The preferred `group/version`.
    pub fn api_version(&self) -> String {
        api_version(&self.spec.group, self.spec.versions.first().map_or("", String::as_str))
    }

    /// Whether an object has a status that only `/status` may write.
    pub fn has_status(&self) -> bool {
        self.spec.status_subresource
    }

    /// What this type is, for `kind`-dependent rules of built-in types.
    pub fn is_core(&self, kind: &str) -> bool {
        self.built_in && self.spec.kind == kind
    }
}

/// `group/version`, or `version` in the core group.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The handed-in types do not make a server.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A schema cannot be compiled.
    #[error("the schema of {kind} cannot be used")]
    Schema {
        /// Whose schema.
        kind: String,
        /// What is wrong with it.
        source: SchemaError,
    },
    /// A printer column's path cannot be parsed.
    #[error("a printer column of {kind} cannot be used")]
    Column {
        /// Whose column.
        kind: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// Two types claim one URL.
    #[error("{plural}.{group} is handed in twice, or is built in")]
    Twice {
        /// The group.
        group: String,
        /// The plural.
        plural: String,
    },
    /// A type without a version, group or name.
    #[error("a resource type lacks a group, version, kind or plural")]
    Nameless,
}

/// A group with its versions, preferred first, and the types of each.
pub(crate) type Group<'a> = (String, Vec<(String, Vec<&'a Served>)>);

/// All served types.
#[derive(Debug)]
pub(crate) struct Registry {
    types: Vec<Served>,
    index: HashMap<String, HashMap<String, TypeId>>,
}

/// A type as found through a URL: which type, under which group and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub id: TypeId,
    pub group: String,
    pub version: String,
}

impl Registry {
    pub fn new(custom: Vec<ResourceType>) -> Result<Self, RegistryError> {
        let mut registry = Self { types: Vec::new(), index: HashMap::new() };
        for served in builtin::types() {
            registry.add(served)?;
        }
        for spec in custom {
            if spec.group.is_empty() || spec.kind.is_empty() || spec.plural.is_empty() || spec.versions.is_empty() {
                return Err(RegistryError::Nameless);
            }
            registry.add(Served::custom(spec)?)?;
        }
        Ok(registry)
    }

    fn add(&mut self, served: Served) -> Result<(), RegistryError> {
        let (group, plural) = (served.spec.group.clone(), served.spec.plural.clone());
        let id = self.types.len();
        if self.index.entry(group.clone()).or_default().insert(plural.clone(), id).is_some() {
            return Err(RegistryError::Twice { group, plural });
        }
        self.types.push(served);
        Ok(())
    }

    pub fn get(&self, id: TypeId) -> &Served {
        &self.types[id]
    }

    pub fn all(&self) -> impl Iterator<Item = (TypeId, &Served)> {
        self.types.iter().enumerate()
    }

    pub fn find(&self, group: &str, plural: &str) -> Option<TypeId> {
        let group = if group == EVENTS_GROUP { "" } else { group };
        self.index.get(group)?.get(plural).copied()
    }

    /// A type by its URL.
    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<Found> {
        let id = if group == EVENTS_GROUP {
            self.find("", plural).filter(|_| plural == "events")?
        } else {
            self.find(group, plural)?
        };
        self.get(id).spec.versions.iter().any(|v| v == version).then(|| Found {
            id,
            group: group.into(),
            version: version.into(),
        })
    }

    /// A type by `apiVersion` and `kind`, as an owner reference names it.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<TypeId> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let group = if group == EVENTS_GROUP { "" } else { group };
        self.all().find(|(_, t)| t.spec.group == group && t.spec.kind == kind).map(|(id, _)| id)
    }

    /// The groups besides the core one with their versions, preferred first, each with its types. Built-in groups come first.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group> = Vec::new();
        for served in &self.types {
            let mut names = vec![served.spec.group.as_str()];
            if served.is_core("Event") {
                names.push(EVENTS_GROUP);
            }
            for name in names.into_iter().filter(|n| !n.is_empty()) {
                let at = groups.iter().position(|(g, _)| g == name).unwrap_or_else(|| {
                    groups.push((name.to_owned(), Vec::new()));
                    groups.len() - 1
                });
                for version in &served.spec.versions {
                    let versions = &mut groups[at].1;
                    match versions.iter_mut().find(|(v, _)| v == version) {
                        Some((_, types)) => types.push(served),
                        None => versions.push((version.clone(), vec![served])),
                    }
                }
            }
        }
        groups
    }

    /// The types of the core group.
    pub fn core(&self) -> Vec<&Served> {
        self.types.iter().filter(|t| t.spec.group.is_empty()).collect()
    }
}
