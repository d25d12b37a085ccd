//! A folder of Terraform files, read: what it declares, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hcl_edit::Span;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Block, Body};

use crate::tree::Tree;

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub file: String,
    /// From 1; 0 where it is about the file, or the module, as a whole.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: {}", self.file, self.what),
            line => write!(out, "{}:{line}: {}", self.file, self.what),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Resource,
    Data,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Resource => "resource",
            Kind::Data => "data source",
        }
    }

    /// What an address begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Resource => "",
            Kind::Data => "data.",
        }
    }
}

/// A block and the file it stands in.
#[derive(Debug, Clone)]
pub struct Item {
    pub file: String,
    pub block: Block,
}

impl Item {
    pub fn attribute(&self, name: &str) -> Option<&Expression> {
        self.block.body.get_attribute(name).map(|attribute| &attribute.value)
    }

    /// One instance a key or a number, or just one.
    pub fn is_repeated(&self) -> bool {
        self.attribute("for_each").is_some() || self.attribute("count").is_some()
    }
}

pub(crate) type ResourceKey = (Kind, String, String);

#[derive(Debug, Default)]
pub struct Module {
    pub dir: String,
    pub resources: BTreeMap<ResourceKey, Item>,
    pub variables: BTreeMap<String, Item>,
    pub locals: BTreeMap<String, (String, Expression)>,
    pub outputs: BTreeMap<String, Item>,
    pub calls: BTreeMap<String, Item>,
    /// `terraform`, `provider`, `moved`, `check` and the like.
    pub others: Vec<Item>,
    /// Where each line of each file begins.
    lines: BTreeMap<String, Vec<usize>>,
}

impl Module {
    /// Reads all files of a folder. What cannot be read, or is declared twice, is a finding.
    pub fn read(tree: &Tree, dir: &str) -> (Self, Vec<Finding>) {
        let mut module = Self { dir: dir.to_owned(), ..Self::default() };
        let mut findings = Vec::new();
        let files = tree.under(dir).filter(|(path, _)| {
            path.ends_with(".tf") && path.rsplit_once('/').is_some_and(|(parent, _)| parent == dir)
        });
        for (path, text) in files {
            let ends = text.char_indices().filter(|(_, c)| *c == '\n').map(|(at, _)| at + 1);
            module.lines.insert(path.to_owned(), std::iter::once(0).chain(ends).collect());
            match text.parse::<Body>() {
                Ok(body) => module.add(path, body, &mut findings),
                Err(error) => findings.push(Finding {
                    file: path.to_owned(),
                    line: error.location().line(),
                    what: format!("it cannot be read: {}", error.message()),
                }),
            }
        }
        (module, findings)
    }

    fn add(&mut self, path: &str, body: Body, findings: &mut Vec<Finding>) {
        for attribute in body.attributes() {
            findings.push(self.finding(
                path,
                attribute,
                format!("`{}` stands outside any block", attribute.key.as_str()),
            ));
        }
        for block in body.into_blocks() {
            let labels: Vec<String> = block.labels.iter().map(|label| label.as_str().to_owned()).collect();
            let kind = block.ident.as_str().to_owned();
            let again = self.finding(path, &block, format!("{kind} {} is declared twice", labels.join(".")));
            let odd = self.finding(path, &block, format!("a block `{kind}` with {} labels", labels.len()));
            let item = Item { file: path.to_owned(), block };
            let before = match (kind.as_str(), labels.as_slice()) {
                ("resource", [kind, name]) => {
                    self.resources.insert((Kind::Resource, kind.clone(), name.clone()), item).is_some()
                }
                ("data", [kind, name]) => {
                    self.resources.insert((Kind::Data, kind.clone(), name.clone()), item).is_some()
                }
                ("variable", [name]) => self.variables.insert(name.clone(), item).is_some(),
                ("output", [name]) => self.outputs.insert(name.clone(), item).is_some(),
                ("module", [name]) => self.calls.insert(name.clone(), item).is_some(),
                ("locals", []) => self.add_locals(path, item, findings),
                ("terraform" | "moved" | "import" | "removed", []) | ("provider" | "check", [_]) => {
                    self.others.push(item);
                    false
                }
                _ => {
                    findings.push(odd);
                    false
                }
            };
            if before {
                findings.push(again);
            }
        }
    }

    fn add_locals(&mut self, path: &str, item: Item, findings: &mut Vec<Finding>) -> bool {
        for attribute in item.block.body.attributes() {
            let name = attribute.key.as_str().to_owned();
            let twice = self.finding(path, attribute, format!("local.{name} is declared twice"));
            if self.locals.insert(name, (path.to_owned(), attribute.value.clone())).is_some() {
                findings.push(twice);
            }
        }
        false
    }

    pub fn line(&self, file: &str, at: &impl Span) -> usize {
        let (Some(span), Some(lines)) = (at.span(), self.lines.get(file)) else { return 0 };
        lines.partition_point(|begin| *begin <= span.start)
    }

    pub fn finding(&self, file: &str, at: &impl Span, what: impl Into<String>) -> Finding {
        Finding { file: file.to_owned(), line: self.line(file, at), what: what.into() }
    }

    /// About the module as a whole.
    pub fn remark(&self, what: impl Into<String>) -> Finding {
        Finding { file: self.dir.clone(), line: 0, what: what.into() }
    }

    pub fn files(&self) -> BTreeSet<&str> {
        self.lines.keys().map(String::as_str).collect()
    }
}

/// `aws_sqs_queue.queue` or `data.aws_region.current`.
pub(crate) fn address(key: &ResourceKey) -> String {
    format!("{}{}.{}", key.0.prefix(), key.1, key.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_found_with_their_lines() {
        let mut tree = Tree::default();
        tree.insert("m/a.tf", "locals {\n  a = 1\n}\n\nresource \"aws_sqs_queue\" \"q\" {\n  name = \"x\"\n}\n");
        tree.insert("m/b.tf", "variable \"v\" {}\nvariable \"v\" {}\nresource \"one\" {}\n");
        tree.insert("m/c.tf", "output \"o\" {\n  value = \n}\n");
        tree.insert("m/inner/d.tf", "variable \"other\" {}\n");
        let (module, findings) = Module::read(&tree, "m");
        let key = (Kind::Resource, "aws_sqs_queue".to_owned(), "q".to_owned());
        assert_eq!(module.line("m/a.tf", &module.resources[&key].block), 5);
        assert_eq!(address(&key), "aws_sqs_queue.q");
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(said[0], "m/b.tf:2: variable v is declared twice");
        assert_eq!(said[1], "m/b.tf:3: a block `resource` with 1 labels");
        assert!(said[2].starts_with("m/c.tf:2: it cannot be read"), "{said:?}");
        assert_eq!(module.variables.len(), 1);
        assert_eq!(tree.modules("m"), ["m", "m/inner"]);
    }
}
