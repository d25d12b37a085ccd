//! The provider's schema, as `scripts/terraform-schema` writes it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::module::Kind;

/// The format this build reads.
const FORMAT: u32 = 1;

/// By default one that knows no resource: enough for modules without a provider.
#[derive(Debug, Default, Deserialize)]
pub struct Schema {
    format: u32,
    /// Of hashicorp/aws.
    pub provider: String,
    /// Of the block `provider "aws"`.
    pub configuration: Body,
    resources: BTreeMap<String, Body>,
    data: BTreeMap<String, Body>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Body {
    pub attributes: BTreeMap<String, Attribute>,
    pub blocks: BTreeMap<String, NestedBlock>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Attribute {
    #[serde(rename = "type")]
    pub shape: Shape,
    #[serde(rename = "use")]
    pub usage: Usage,
    /// Of an object, or of a list's elements, where the schema says what they are.
    #[serde(flatten)]
    pub inner: Option<Body>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct NestedBlock {
    #[serde(rename = "use")]
    pub usage: Usage,
    /// May stand more than once.
    pub many: bool,
    #[serde(flatten)]
    pub body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    String,
    Number,
    Bool,
    /// Or a set: the schema at hand does not tell the two apart.
    List,
    Map,
    Object,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Usage {
    Required,
    Optional,
    /// The provider sets it.
    Never,
}

impl Schema {
    pub fn parse(text: &str) -> Result<Self, String> {
        let schema: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match schema.format {
            FORMAT => Ok(schema),
            other => Err(format!("a schema of format {other}; this build reads {FORMAT}")),
        }
    }

    pub fn body(&self, kind: Kind, name: &str) -> Option<&Body> {
        match kind {
            Kind::Resource => self.resources.get(name).or_else(|| built_in().get(name)),
            Kind::Data => self.data.get(name).or_else(|| built_in().get(name)),
        }
    }
}

/// Of other providers: what Terraform brings itself, and hashicorp/archive 2.7, from its documentation.
fn built_in() -> &'static BTreeMap<String, Body> {
    static BUILT_IN: OnceLock<BTreeMap<String, Body>> = OnceLock::new();
    BUILT_IN.get_or_init(|| {
        let data = r#"{
            "terraform_data": {"blocks": {}, "attributes": {
                "input": {"type": "any", "use": "optional"}, "triggers_replace": {"type": "any", "use": "optional"},
                "output": {"type": "any", "use": "never"}, "id": {"type": "string", "use": "never"}}},
            "archive_file": {"blocks": {"source": {"use": "optional", "many": true, "blocks": {}, "attributes": {
                "content": {"type": "string", "use": "required"}, "filename": {"type": "string", "use": "required"}}}},
                "attributes": {
                "type": {"type": "string", "use": "required"}, "output_path": {"type": "string", "use": "required"},
                "source_dir": {"type": "string", "use": "optional"}, "source_file": {"type": "string", "use": "optional"},
                "source_content": {"type": "string", "use": "optional"},
                "source_content_filename": {"type": "string", "use": "optional"},
                "excludes": {"type": "list", "use": "optional"}, "output_file_mode": {"type": "string", "use": "optional"},
                "output_base64sha256": {"type": "string", "use": "never"}, "output_sha256": {"type": "string", "use": "never"},
                "output_md5": {"type": "string", "use": "never"}, "output_size": {"type": "number", "use": "never"},
                "id": {"type": "string", "use": "never"}}}}"#;
        serde_json::from_str(data).expect("the text above is a schema")
    })
}
