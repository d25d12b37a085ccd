//! Every name in every expression: it is declared, an instance is picked where there are several, the attribute is in the schema, the function
//! exists and takes so many arguments.

use std::collections::BTreeSet;

use hcl_edit::Span;
use hcl_edit::expr::{Expression, ForExpr, FuncCall, ObjectKey, Traversal, TraversalOperator};
use hcl_edit::structure::Body as Hcl;
use hcl_edit::template::{Directive, Element, Template};

use crate::functions;
use crate::module::{Finding, Item, Kind, Module, ResourceKey, address};
use crate::schema::{Body, Schema, Shape};

/// What may be named here besides what the module declares: variables of `for` and of `dynamic`, and Terraform's own `each`, `count`, `self`.
#[derive(Debug, Clone, Default)]
struct Names {
    variables: BTreeSet<String>,
    own: BTreeSet<&'static str>,
}

impl Names {
    fn with<'n>(&self, more: impl IntoIterator<Item = &'n str>) -> Self {
        let mut names = self.clone();
        names.variables.extend(more.into_iter().map(str::to_owned));
        names
    }

    fn with_own(&self, name: &'static str) -> Self {
        let mut names = self.clone();
        names.own.insert(name);
        names
    }

    fn has(&self, name: &str) -> bool {
        self.variables.contains(name) || self.own.contains(name)
    }
}

struct Walker<'a> {
    schema: &'a Schema,
    module: &'a Module,
    /// The module that a call of this one names, if it is in the repository.
    called: &'a dyn Fn(&str) -> Option<&'a Module>,
    file: &'a str,
    findings: Vec<Finding>,
}

/// All of a module.
pub(crate) fn check<'a>(
    schema: &'a Schema,
    module: &'a Module,
    called: &'a dyn Fn(&str) -> Option<&'a Module>,
) -> Vec<Finding> {
    let mut walker = Walker { schema, module, called, file: "", findings: Vec::new() };
    for (key, item) in &module.resources {
        walker.repeated(item, Some(key));
    }
    for item in module.calls.values() {
        walker.repeated(item, None);
    }
    for item in module.variables.values().chain(module.outputs.values()).chain(&module.others) {
        walker.file = &item.file;
        if item.block.ident.as_str() != "terraform" {
            walker.body(&item.block.body, &Names::default(), None);
        }
    }
    for (file, expression) in module.locals.values() {
        walker.file = file;
        walker.expression(expression, &Names::default());
    }
    walker.findings
}

impl<'a> Walker<'a> {
    fn say(&mut self, at: &impl Span, what: impl Into<String>) {
        self.findings.push(self.module.finding(self.file, at, what));
    }

    /// A resource, a data source or a module's call.
    fn repeated(&mut self, item: &'a Item, key: Option<&ResourceKey>) {
        self.file = &item.file;
        let mut names = Names::default();
        if item.attribute("for_each").is_some() {
            names = names.with_own("each");
        }
        if item.attribute("count").is_some() {
            if names.has("each") {
                self.say(&item.block, "`count` and `for_each` exclude each other");
            }
            names = names.with_own("count");
        }
        self.body(&item.block.body, &names, key);
    }

    fn body(&mut self, body: &Hcl, names: &Names, key: Option<&ResourceKey>) {
        for attribute in body.attributes() {
            match attribute.key.as_str() {
                // A type is no expression; a provider's configuration is no value.
                "type"
                    if key.is_none()
                        && matches!(attribute.value, Expression::Variable(_) | Expression::FuncCall(_)) => {}
                "provider" | "providers" => {}
                "for_each" | "count" => self.expression(&attribute.value, &Names::default()),
                "depends_on" | "replace_triggered_by" => self.dependencies(&attribute.value),
                "ignore_changes" => self.ignored(&attribute.value, key),
                _ => self.expression(&attribute.value, names),
            }
        }
        for block in body.blocks() {
            match block.ident.as_str() {
                "dynamic" => self.dynamic(block, names, key),
                "postcondition" | "provisioner" | "connection" => {
                    self.body(&block.body, &names.with_own("self"), key);
                }
                _ => self.body(&block.body, names, key),
            }
        }
    }

    fn dynamic(&mut self, block: &hcl_edit::structure::Block, names: &Names, key: Option<&ResourceKey>) {
        let iterator = match block.body.get_attribute("iterator").map(|attribute| &attribute.value) {
            Some(Expression::Variable(name)) => name.as_str().to_owned(),
            _ => block.labels.first().map(|label| label.as_str().to_owned()).unwrap_or_default(),
        };
        for attribute in block.body.attributes() {
            match attribute.key.as_str() {
                "for_each" => self.expression(&attribute.value, names),
                "iterator" => {}
                "labels" => self.expression(&attribute.value, &names.with([iterator.as_str()])),
                other => self.say(attribute, format!("a `dynamic` block takes no `{other}`")),
            }
        }
        for content in block.body.get_blocks("content") {
            self.body(&content.body, &names.with([iterator.as_str()]), key);
        }
    }

    fn dependencies(&mut self, list: &Expression) {
        let Expression::Array(list) = list else {
            return self.say(list, "this is a list of references");
        };
        for element in list.iter() {
            let found = match element {
                Expression::Traversal(traversal) => self.declared(traversal),
                _ => None,
            };
            if found.is_none() {
                self.say(element, format!("`{}` is not declared", element.to_string().trim()));
            }
        }
    }

    /// Whether what a traversal begins with is there, whatever follows.
    fn declared(&self, traversal: &Traversal) -> Option<()> {
        let Expression::Variable(root) = &traversal.expr else { return None };
        let words: Vec<&str> = words(traversal);
        let key = |kind: Kind, words: &[&str]| match words {
            [kind_name, name, ..] => Some((kind, (*kind_name).to_owned(), (*name).to_owned())),
            _ => None,
        };
        let is = match root.as_str() {
            "var" => self.module.variables.contains_key(*words.first()?),
            "local" => self.module.locals.contains_key(*words.first()?),
            "module" => self.module.calls.contains_key(*words.first()?),
            "data" => self.module.resources.contains_key(&key(Kind::Data, &words)?),
            kind => self.module.resources.contains_key(&key(Kind::Resource, &[&[kind], words.as_slice()].concat())?),
        };
        is.then_some(())
    }

    fn ignored(&mut self, list: &Expression, key: Option<&ResourceKey>) {
        let Some(schema) = key.and_then(|key| self.schema.body(key.0, &key.1)) else { return };
        let Expression::Array(list) = list else { return };
        for element in list.iter() {
            let root = match element {
                Expression::Traversal(traversal) => &traversal.expr,
                element => element,
            };
            let name = root.to_string().trim().to_owned();
            if !schema.attributes.contains_key(&name) && !schema.blocks.contains_key(&name) {
                self.say(element, format!("`ignore_changes` names `{name}`, which there is none of"));
            }
        }
    }

    fn expression(&mut self, expression: &Expression, names: &Names) {
        match expression {
            Expression::Null(_) | Expression::Bool(_) | Expression::Number(_) | Expression::String(_) => {}
            Expression::Array(array) => array.iter().for_each(|element| self.expression(element, names)),
            Expression::Object(object) => {
                for (key, value) in object.iter() {
                    match key {
                        // A bare word is a string here.
                        ObjectKey::Ident(_) | ObjectKey::Expression(Expression::Variable(_)) => {}
                        ObjectKey::Expression(key) => self.expression(key, names),
                    }
                    self.expression(value.expr(), names);
                }
            }
            Expression::StringTemplate(template) => self.elements(template.iter(), names),
            Expression::HeredocTemplate(heredoc) => self.elements(heredoc.template.iter(), names),
            Expression::Parenthesis(inner) => self.expression(inner.inner(), names),
            Expression::Variable(name) => {
                if !names.has(name.as_str()) {
                    self.say(expression, format!("nothing here is called `{}`", name.as_str()));
                }
            }
            Expression::Conditional(conditional) => {
                for part in [&conditional.cond_expr, &conditional.true_expr, &conditional.false_expr] {
                    self.expression(part, names);
                }
            }
            Expression::FuncCall(call) => self.call(call, names),
            Expression::Traversal(traversal) => self.traversal(traversal, names),
            Expression::UnaryOp(operation) => self.expression(&operation.expr, names),
            Expression::BinaryOp(operation) => {
                self.expression(&operation.lhs_expr, names);
                self.expression(&operation.rhs_expr, names);
            }
            Expression::ForExpr(each) => self.for_expression(each, names),
        }
    }

    fn for_expression(&mut self, each: &ForExpr, names: &Names) {
        self.expression(&each.intro.collection_expr, names);
        let key = each.intro.key_var.as_ref().map(|name| name.as_str());
        let names = names.with(key.into_iter().chain([each.intro.value_var.as_str()]));
        let parts = each.key_expr.iter().chain([&each.value_expr]).chain(each.cond.iter().map(|cond| &cond.expr));
        parts.for_each(|part| self.expression(part, &names));
    }

    fn call(&mut self, call: &FuncCall, names: &Names) {
        let name = call.name.name.as_str();
        let bare = call.name.namespace.is_empty() || call.name.namespace.iter().all(|part| part.as_str() == "core");
        let mistake = match bare {
            true => functions::mistake(name, call.args.len(), call.args.expand_final()),
            false => Some(format!("`{name}` of a provider: none here has functions")),
        };
        if let Some(mistake) = mistake {
            self.say(&call.name.name, mistake);
        }
        call.args.iter().for_each(|arg| self.expression(arg, names));
    }

    fn elements<'t>(&mut self, elements: impl Iterator<Item = &'t Element>, names: &Names) {
        for element in elements {
            match element {
                Element::Literal(_) => {}
                Element::Interpolation(inner) => self.expression(&inner.expr, names),
                Element::Directive(directive) => match &**directive {
                    Directive::If(branch) => {
                        self.expression(&branch.if_expr.cond_expr, names);
                        self.template(&branch.if_expr.template, names);
                        branch.else_expr.iter().for_each(|other| self.template(&other.template, names));
                    }
                    Directive::For(each) => {
                        let each = &each.for_expr;
                        self.expression(&each.collection_expr, names);
                        let key = each.key_var.as_ref().map(|name| name.as_str());
                        let names = names.with(key.into_iter().chain([each.value_var.as_str()]));
                        self.template(&each.template, &names);
                    }
                },
            }
        }
    }

    fn template(&mut self, template: &Template, names: &Names) {
        self.elements(template.iter(), names);
    }

    fn traversal(&mut self, traversal: &Traversal, names: &Names) {
        for operator in &traversal.operators {
            if let TraversalOperator::Index(index) = operator.value() {
                self.expression(index, names);
            }
        }
        let Expression::Variable(root) = &traversal.expr else {
            return self.expression(&traversal.expr, names);
        };
        let words = words(traversal);
        let module = self.module;
        match (root.as_str(), words.as_slice()) {
            (root, words) if names.has(root) => {
                let wanted: &[&str] = match root {
                    "each" if !names.variables.contains(root) => &["key", "value"],
                    "count" if !names.variables.contains(root) => &["index"],
                    _ => return,
                };
                if !words.first().is_some_and(|word| wanted.contains(word)) {
                    self.say(traversal, format!("`{root}` has {}", wanted.join(" and ")));
                }
            }
            ("var", [name, ..]) if module.variables.contains_key(*name) => {}
            ("var", [name, ..]) => self.say(traversal, format!("variable `{name}` is not declared")),
            ("local", [name, ..]) if module.locals.contains_key(*name) => {}
            ("local", [name, ..]) => self.say(traversal, format!("local `{name}` is not declared")),
            ("path", ["module" | "root" | "cwd"]) | ("terraform", ["workspace"]) => {}
            ("module", [name, ..]) => match module.calls.get(*name) {
                None => self.say(traversal, format!("module `{name}` is not declared")),
                Some(call) => {
                    let rest = self.picked(traversal, 1, call.is_repeated(), &format!("module.{name}"));
                    self.output(traversal, name, rest);
                }
            },
            ("data", [kind, name, ..]) => self.resource(traversal, (Kind::Data, kind, name), 2),
            (kind, [name, ..]) if kind.contains('_') => self.resource(traversal, (Kind::Resource, kind, name), 1),
            (root @ ("each" | "count" | "self"), _) => self.say(traversal, format!("there is no `{root}` here")),
            (root, _) => self.say(traversal, format!("nothing here is called `{root}`")),
        }
    }

    fn resource(&mut self, traversal: &Traversal, (kind, kind_name, name): (Kind, &str, &str), words: usize) {
        let key = (kind, kind_name.to_owned(), name.to_owned());
        let Some(item) = self.module.resources.get(&key) else {
            return self.say(traversal, format!("{} {} is not declared", kind.as_str(), address(&key)));
        };
        let rest = self.picked(traversal, words, item.is_repeated(), &address(&key));
        // A type that the provider lacks is found where it is declared.
        if let (Some(rest), Some(schema)) = (rest, self.schema.body(kind, kind_name)) {
            self.attribute(traversal, schema, &address(&key), &traversal.operators[rest..]);
        }
    }

    /// Where an instance's attributes begin, or none where all instances are meant.
    fn picked(&mut self, traversal: &Traversal, words: usize, repeated: bool, what: &str) -> Option<usize> {
        match (traversal.operators.get(words).map(|operator| operator.value()), repeated) {
            (None, _) => None,
            (Some(TraversalOperator::GetAttr(_)), true) => {
                self.say(traversal, format!("{what} has several instances: one must be picked"));
                None
            }
            (Some(TraversalOperator::GetAttr(_)), false) => Some(words),
            (Some(TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_)), _) => Some(words + 1),
            (Some(TraversalOperator::Index(_) | TraversalOperator::LegacyIndex(_)), true) => Some(words + 1),
            (Some(TraversalOperator::Index(_) | TraversalOperator::LegacyIndex(_)), false) => {
                self.say(traversal, format!("{what} has one instance: none can be picked"));
                None
            }
        }
    }

    fn output(&mut self, traversal: &Traversal, call: &str, rest: Option<usize>) {
        let (Some(rest), Some(called)) = (rest, (self.called)(call)) else { return };
        if let Some(TraversalOperator::GetAttr(output)) = traversal.operators.get(rest).map(|operator| operator.value())
            && !called.outputs.contains_key(output.as_str())
        {
            self.say(traversal, format!("module.{call} has no output `{}`", output.as_str()));
        }
    }

    fn attribute(
        &mut self,
        at: &Traversal,
        schema: &Body,
        what: &str,
        operators: &[hcl_edit::repr::Decorated<TraversalOperator>],
    ) {
        let Some((TraversalOperator::GetAttr(name), rest)) =
            operators.split_first().map(|(first, rest)| (first.value(), rest))
        else {
            // An index or a splat: into the same.
            if let Some((_, rest)) = operators.split_first() {
                self.attribute(at, schema, what, rest);
            }
            return;
        };
        let name = name.as_str();
        let inner = match (schema.attributes.get(name), schema.blocks.get(name)) {
            (Some(attribute), _) => match (&attribute.inner, attribute.shape) {
                (Some(inner), _) => Some(inner),
                (None, Shape::String | Shape::Number | Shape::Bool) if !rest.is_empty() => {
                    return self.say(at, format!("{what}.{name} has nothing in it to pick"));
                }
                (None, _) => None,
            },
            (None, Some(block)) => Some(&block.body),
            (None, None) => return self.say(at, format!("{what} has no attribute `{name}`")),
        };
        if let Some(inner) = inner {
            self.attribute(at, inner, &format!("{what}.{name}"), rest);
        }
    }
}

/// The plain names that a traversal goes on with.
fn words(traversal: &Traversal) -> Vec<&str> {
    let mut words = Vec::new();
    for operator in &traversal.operators {
        let TraversalOperator::GetAttr(name) = operator.value() else { break };
        words.push(name.as_str());
    }
    words
}
