//! Every resource, data source, provider and module call against what it takes: unknown and missing arguments, blocks that may stand once.

use hcl_edit::Span;
use hcl_edit::expr::{Expression, ObjectKey};
use hcl_edit::structure::{Block, Body as Hcl};

use crate::module::{Finding, Item, Module, address};
use crate::schema::{Body, Schema, Usage};

/// Arguments of every resource and call that are Terraform's, not the provider's.
const META_ATTRIBUTES: &[&str] = &["count", "for_each", "depends_on", "provider"];
const META_BLOCKS: &[&str] = &["lifecycle", "connection", "provisioner"];
const OF_CALLS: &[&str] = &["source", "version", "providers", "count", "for_each", "depends_on"];

struct Checker<'a> {
    module: &'a Module,
    file: &'a str,
    findings: Vec<Finding>,
}

pub(crate) fn check<'a>(
    schema: &'a Schema,
    module: &'a Module,
    called: &'a dyn Fn(&str) -> Option<&'a Module>,
) -> Vec<Finding> {
    let mut checker = Checker { module, file: "", findings: Vec::new() };
    for (key, item) in &module.resources {
        checker.file = &item.file;
        match schema.body(key.0, &key.1) {
            Some(schema) => checker.body(&address(key), &item.block, &item.block.body, schema, true),
            None => checker.say(&item.block, format!("the provider has no {} `{}`", key.0.as_str(), key.1)),
        }
    }
    for (name, item) in &module.calls {
        checker.file = &item.file;
        checker.call(name, item, called(name));
    }
    for item in &module.others {
        checker.file = &item.file;
        if item.block.has_ident("provider") && item.block.has_labels(&["aws"]) {
            checker.body("provider aws", &item.block, &item.block.body, &schema.configuration, true);
        }
    }
    checker.findings
}

impl Checker<'_> {
    fn say(&mut self, at: &impl Span, what: impl Into<String>) {
        self.findings.push(self.module.finding(self.file, at, what));
    }

    fn body(&mut self, what: &str, block: &Block, body: &Hcl, schema: &Body, top: bool) {
        for attribute in body.attributes() {
            let name = attribute.key.as_str();
            if top && META_ATTRIBUTES.contains(&name) {
                continue;
            }
            match (schema.attributes.get(name), schema.blocks.get(name)) {
                (Some(known), _) if known.usage == Usage::Never => {
                    self.say(attribute, format!("{what}: `{name}` is set by the provider"));
                }
                (Some(known), _) => {
                    if let Some(inner) = &known.inner {
                        self.object(&format!("{what}.{name}"), &attribute.value, inner);
                    }
                }
                (None, Some(_)) => self.say(attribute, format!("{what}: `{name}` is a block: no `=`")),
                (None, None) => self.say(attribute, format!("{what}: there is no argument `{name}`")),
            }
        }
        for inner in body.blocks() {
            let name = inner.ident.as_str();
            match (name, inner.labels.first()) {
                ("dynamic", Some(label)) => {
                    let contents: Vec<&Block> = inner.body.get_blocks("content").collect();
                    match contents.as_slice() {
                        [content] => self.block(what, label.as_str(), content, schema),
                        _ => self.say(inner, format!("{what}: a `dynamic` block has one `content`")),
                    }
                    if inner.body.get_attribute("for_each").is_none() {
                        self.say(inner, format!("{what}: a `dynamic` block has a `for_each`"));
                    }
                }
                (name, _) if top && META_BLOCKS.contains(&name) => {}
                (name, _) => self.block(what, name, inner, schema),
            }
        }
        self.missing(what, block, body, schema);
    }

    fn block(&mut self, what: &str, name: &str, block: &Block, schema: &Body) {
        let what = format!("{what}.{name}");
        let as_attribute = schema.attributes.get(name).filter(|attribute| attribute.usage != Usage::Never);
        match (schema.blocks.get(name), as_attribute.and_then(|attribute| attribute.inner.as_ref())) {
            (Some(known), _) => self.body(&what, block, &block.body, &known.body, false),
            // Some lists of objects may be written as blocks.
            (None, Some(inner)) => self.body(&what, block, &block.body, inner, false),
            (None, None) if as_attribute.is_some() => self.say(block, format!("{what} is an argument: it takes `=`")),
            (None, None) => self.say(block, format!("{what}: there is no such block")),
        }
    }

    fn missing(&mut self, what: &str, block: &Block, body: &Hcl, schema: &Body) {
        let dynamic = |name: &str| {
            body.get_blocks("dynamic").any(|block| block.labels.first().is_some_and(|label| label.as_str() == name))
        };
        for (name, attribute) in &schema.attributes {
            if attribute.usage == Usage::Required
                && !body.has_attribute(name)
                && !body.has_blocks(name)
                && !dynamic(name)
            {
                self.say(block, format!("{what}: `{name}` is missing"));
            }
        }
        for (name, known) in &schema.blocks {
            let count = body.get_blocks(name).count();
            if known.usage == Usage::Required && count == 0 && !dynamic(name) {
                self.say(block, format!("{what}: the block `{name}` is missing"));
            }
            if !known.many && count > 1 {
                self.say(block, format!("{what}: the block `{name}` may stand once"));
            }
        }
    }

    /// An object, or a list of them, written out as an argument.
    fn object(&mut self, what: &str, value: &Expression, schema: &Body) {
        match value {
            Expression::Array(array) => array.iter().for_each(|element| self.object(what, element, schema)),
            Expression::Object(object) => {
                for (key, _) in object.iter() {
                    let name = match key {
                        ObjectKey::Ident(name) | ObjectKey::Expression(Expression::Variable(name)) => name.as_str(),
                        ObjectKey::Expression(Expression::String(name)) => name.value(),
                        ObjectKey::Expression(_) => continue,
                    };
                    if !schema.attributes.contains_key(name) && !schema.blocks.contains_key(name) {
                        self.say(value, format!("{what}: there is no `{name}`"));
                    }
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, name: &str, item: &Item, called: Option<&Module>) {
        let Some(called) = called else {
            return self.say(&item.block, format!("module.{name}: its source is no folder here"));
        };
        for attribute in item.block.body.attributes() {
            let argument = attribute.key.as_str();
            if !OF_CALLS.contains(&argument) && !called.variables.contains_key(argument) {
                self.say(attribute, format!("module.{name}: {} has no variable `{argument}`", called.dir));
            }
        }
        for block in item.block.body.blocks() {
            self.say(block, format!("module.{name}: a call has no blocks"));
        }
        for (variable, declared) in &called.variables {
            if declared.attribute("default").is_none() && item.attribute(variable).is_none() {
                self.say(&item.block, format!("module.{name}: `{variable}` is missing"));
            }
        }
    }
}
