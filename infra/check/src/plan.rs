//! What a module would ask AWS for: every instance of every resource, its arguments worked out, without asking AWS anything.
//!
//! What only AWS knows stays unknown, except names that follow from names: an ARN, a URL, the JSON of a policy document.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use hcl_edit::expr::Expression;
use hcl_edit::structure::{Block, Body as Hcl};

use crate::computed::computed;
use crate::eval::Scope;
use crate::module::{Finding, Item, Kind, Module, ResourceKey, address};
use crate::schema::{Body, Schema, Shape};
use crate::tree::{Tree, plain};
use crate::types::Type;
use crate::value::Value;

/// Everything that is read once: the files, the schema, all modules of the repository.
pub struct World {
    pub tree: Tree,
    pub schema: Rc<Schema>,
    pub modules: BTreeMap<String, Module>,
    /// What could not be read.
    pub findings: Vec<Finding>,
}

impl World {
    /// All modules under a folder.
    pub fn read(tree: Tree, schema: Rc<Schema>, dir: &str) -> Self {
        let mut modules = BTreeMap::new();
        let mut findings = Vec::new();
        for dir in tree.modules(dir) {
            let (module, wrong) = Module::read(&tree, &dir);
            findings.extend(wrong);
            modules.insert(dir, module);
        }
        Self { tree, schema, modules, findings }
    }

    /// The module that a call names, if its source is a folder here.
    pub fn called(&self, from: &Module, call: &str) -> Option<&Module> {
        let source = from.calls.get(call)?.attribute("source")?.as_str()?;
        if !source.starts_with("./") && !source.starts_with("../") {
            return None;
        }
        self.modules.get(&plain(&format!("{}/{source}", from.dir)))
    }
}

/// One instance of a resource or a data source.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Like `module.push0.aws_sqs_queue.queue["results"]`.
    pub address: String,
    pub kind: Kind,
    pub type_name: String,
    pub file: String,
    pub line: usize,
    /// What is written, worked out: blocks are lists of objects, what is null is left out.
    pub arguments: Value,
}

impl Resource {
    pub fn argument(&self, path: &str) -> Option<&Value> {
        self.arguments.at(path)
    }

    pub fn text(&self, path: &str) -> Option<String> {
        self.argument(path)?.text()
    }

    pub fn number(&self, path: &str) -> Option<f64> {
        self.argument(path)?.as_number()
    }

    pub fn finding(&self, what: impl Into<String>) -> Finding {
        Finding { file: self.file.clone(), line: self.line, what: format!("{}: {}", self.address, what.into()) }
    }
}

/// Keys of a repeated block, and what is named in each instance.
type Keys = Vec<(Value, Vec<(String, Value)>)>;
/// Instances, and what `each.key` or `count.index` they have.
type Instances = Vec<(Value, Rc<Resource>)>;
type Memo<K, V> = RefCell<BTreeMap<K, Option<Result<Rc<V>, Finding>>>>;

pub struct Plan<'w> {
    pub world: &'w World,
    pub module: &'w Module,
    /// The folder that Terraform would run in.
    pub(crate) root: &'w str,
    /// Of the module, with a dot behind it; empty for the root.
    path: String,
    variables: BTreeMap<String, Value>,
    locals: Memo<String, Value>,
    resources: Memo<ResourceKey, Instances>,
    values: Memo<ResourceKey, Value>,
    children: Memo<String, Vec<(Value, Plan<'w>)>>,
    outputs: Memo<String, Value>,
    findings: RefCell<Vec<Finding>>,
}

impl<'w> Plan<'w> {
    /// Of a root module. Variables without a default that are not given stay unknown.
    pub fn of_root(world: &'w World, module: &'w Module, given: BTreeMap<String, Value>) -> Self {
        Self::new(world, module, &module.dir, String::new(), given)
    }

    fn new(world: &'w World, module: &'w Module, root: &'w str, path: String, given: BTreeMap<String, Value>) -> Self {
        let mut plan = Self {
            world,
            module,
            root,
            path,
            variables: BTreeMap::new(),
            locals: Memo::default(),
            resources: Memo::default(),
            values: Memo::default(),
            children: Memo::default(),
            outputs: Memo::default(),
            findings: RefCell::default(),
        };
        for (name, item) in &module.variables {
            let value = plan.variable_of(name, item, given.get(name));
            let value = value.unwrap_or_else(|why| {
                plan.say(why);
                Value::Unknown(format!("var.{name}"))
            });
            plan.variables.insert(name.clone(), value);
        }
        plan
    }

    /// A root module, or one that it calls: what these are given, somebody wrote by hand.
    fn is_set_by_hand(&self) -> bool {
        self.path.matches("module.").count() <= 1
    }

    fn say(&self, finding: Finding) {
        self.findings.borrow_mut().push(finding);
    }

    fn scope(&self, file: &str) -> Scope<'_, 'w> {
        Scope { plan: self, file: file.to_owned(), names: BTreeMap::new() }
    }

    fn variable_of(&self, name: &str, item: &Item, given: Option<&Value>) -> Result<Value, Finding> {
        let scope = self.scope(&item.file);
        let default = item.attribute("default").map(|default| scope.eval(default)).transpose()?;
        let nullable = item.attribute("nullable").and_then(Expression::as_bool).unwrap_or(true);
        let value = match (given, default) {
            (Some(Value::Null), Some(default)) if !nullable => default,
            (Some(value), _) => value.clone(),
            (None, Some(default)) => default,
            (None, None) => Value::Unknown(format!("{}var.{name}", self.path)),
        };
        let Some(kind) = item.attribute("type") else { return Ok(value) };
        let eval = |expression: &Expression| scope.eval(expression).map_err(|why| why.what);
        let kind = Type::of(kind, &eval).or_else(|why| scope.fail(&item.block, format!("variable {name}: {why}")))?;
        kind.convert(value, self.is_set_by_hand())
            .or_else(|why| scope.fail(&item.block, format!("variable {name}: {why}")))
    }

    /// What `validation` blocks refuse.
    fn validate(&self) {
        for (name, item) in &self.module.variables {
            let scope = self.scope(&item.file);
            for block in item.block.body.get_blocks("validation") {
                self.condition(&scope, block, &format!("variable {name} is refused"));
            }
        }
    }

    fn condition(&self, scope: &Scope<'_, 'w>, block: &Block, what: &str) {
        let Some(condition) = block.body.get_attribute("condition") else {
            return self.say(self.module.finding(&scope.file, block, "a check without a `condition`"));
        };
        match scope.eval(&condition.value) {
            Ok(Value::Bool(false)) => {
                let message = block.body.get_attribute("error_message").map(|message| scope.eval(&message.value));
                let message = message.and_then(Result::ok).and_then(|message| message.text()).unwrap_or_default();
                self.say(self.module.finding(&scope.file, block, format!("{what}: {message}")));
            }
            Ok(Value::Bool(true) | Value::Unknown(_)) => {}
            Ok(other) => {
                self.say(scope.plan.module.finding(&scope.file, block, format!("a condition that is {}", other.kind())))
            }
            Err(why) => self.say(why),
        }
    }

    pub fn variable(&self, name: &str) -> Result<Value, Finding> {
        self.variables.get(name).cloned().ok_or(bare(format!("variable `{name}` is not declared")))
    }

    pub fn local(&self, name: &str) -> Result<Rc<Value>, Finding> {
        let (file, expression) = self.module.locals.get(name).ok_or(bare(format!("local `{name}` is not declared")))?;
        memoised(&self.locals, name.to_owned(), &format!("local.{name}"), || self.scope(file).eval(expression))
    }

    pub fn output(&self, name: &str) -> Result<Value, Finding> {
        let item = self.module.outputs.get(name).ok_or(bare(format!("there is no output `{name}`")))?;
        item.attribute("value").map_or(Ok(Value::Null), |value| self.scope(&item.file).eval(value))
    }

    /// A resource as its references see it: an object, or one of all its instances.
    pub(crate) fn value_of(&self, key: &ResourceKey) -> Result<Rc<Value>, Finding> {
        let item = self.module.resources.get(key).ok_or(bare(format!("{} is not declared", address(key))))?;
        memoised(&self.values, key.clone(), &address(key), || {
            let instances = self.instances(key)?;
            let seen = |resource: &Resource| match self.world.schema.body(resource.kind, &resource.type_name) {
                Some(schema) => seen(resource, schema),
                None => Value::Unknown(resource.address.clone()),
            };
            Ok(self.together(item, instances.iter().map(|(key, resource)| (key.clone(), seen(resource)))))
        })
    }

    fn together(&self, item: &Item, instances: impl Iterator<Item = (Value, Value)>) -> Value {
        let mut instances = instances;
        if item.attribute("count").is_some() {
            return Value::List(instances.map(|(_, value)| value).collect());
        }
        if item.attribute("for_each").is_none() {
            return instances.next().map_or(Value::Null, |(_, value)| value);
        }
        let mut fields = BTreeMap::new();
        for (key, value) in instances {
            if let Value::Unknown(address) = key {
                return Value::Unknown(address);
            }
            fields.insert(key.text().unwrap_or_default(), value);
        }
        Value::Map(fields)
    }

    fn instances(&self, key: &ResourceKey) -> Result<Rc<Instances>, Finding> {
        let item = self.module.resources.get(key).ok_or(bare(format!("{} is not declared", address(key))))?;
        memoised(&self.resources, key.clone(), &address(key), || {
            let mut instances = Vec::new();
            for (each, names) in self.keys(item)? {
                let scope = self.scope(&item.file).with(names);
                let address = format!("{}{}{}", self.path, address(key), index(&each));
                let arguments = self.arguments(&scope, &item.block.body)?;
                self.conditions(&scope, item, &arguments);
                let resource = Resource {
                    address,
                    kind: key.0,
                    type_name: key.1.clone(),
                    file: item.file.clone(),
                    line: self.module.line(&item.file, &item.block),
                    arguments,
                };
                if let Some(schema) = self.world.schema.body(key.0, &key.1) {
                    shapes(&resource, &resource.arguments, schema).into_iter().for_each(|why| self.say(why));
                }
                instances.push((each, Rc::new(resource)));
            }
            Ok(instances)
        })
    }

    fn conditions(&self, scope: &Scope<'_, 'w>, item: &Item, arguments: &Value) {
        for lifecycle in item.block.body.get_blocks("lifecycle") {
            for block in lifecycle.body.blocks() {
                match block.ident.as_str() {
                    "precondition" => self.condition(scope, block, "a precondition does not hold"),
                    "postcondition" => {
                        let scope = scope.with([("self".to_owned(), arguments.clone())]);
                        self.condition(&scope, block, "a postcondition does not hold");
                    }
                    _ => {}
                }
            }
        }
    }

    fn keys(&self, item: &Item) -> Result<Keys, Finding> {
        let scope = self.scope(&item.file);
        let named = |name: &str, fields: &[(&str, Value)]| {
            let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            vec![(name.to_owned(), Value::Map(fields))]
        };
        if let Some(count) = item.attribute("count") {
            return match scope.eval(count)? {
                Value::Number(count) => {
                    let index = |at: u64| Value::Number(at as f64);
                    Ok((0..count as u64).map(|at| (index(at), named("count", &[("index", index(at))]))).collect())
                }
                Value::Unknown(what) if at_plan_time(&what) => {
                    Ok(vec![(Value::Number(0.0), named("count", &[("index", Value::Number(0.0))]))])
                }
                Value::Unknown(what) => scope.fail(count, format!("`count` hangs on what AWS says later: {what}")),
                other => scope.fail(count, format!("{} where a count is wanted", other.kind())),
            };
        }
        let Some(for_each) = item.attribute("for_each") else {
            return Ok(vec![(Value::Null, Vec::new())]);
        };
        let collection = scope.eval(for_each)?;
        match &collection {
            Value::Map(_) => {}
            Value::Set(keys) => {
                for key in keys {
                    match key {
                        Value::Unknown(what) if at_plan_time(what) => {}
                        Value::String(text) if !text.contains("${") || at_plan_time(text) => {}
                        other => {
                            let text = other.text().unwrap_or_default();
                            return scope.fail(for_each, format!("a key of `for_each` is {}: {text}", other.kind()));
                        }
                    }
                }
            }
            Value::Unknown(what) if at_plan_time(what) => {}
            Value::Unknown(what) => {
                return scope.fail(for_each, format!("`for_each` hangs on what AWS says later: {what}"));
            }
            other => return scope.fail(for_each, format!("`for_each` takes a map or a set, not {}", other.kind())),
        }
        let pairs = scope.pairs(for_each, &collection)?;
        Ok(pairs
            .into_iter()
            .map(|(key, value)| (key.clone(), named("each", &[("key", key), ("value", value)])))
            .collect())
    }

    fn arguments(&self, scope: &Scope<'_, 'w>, body: &Hcl) -> Result<Value, Finding> {
        let mut fields: BTreeMap<String, Value> = BTreeMap::new();
        for attribute in body.attributes() {
            let name = attribute.key.as_str();
            if !matches!(name, "for_each" | "count" | "depends_on" | "provider" | "providers") {
                let value = scope.eval(&attribute.value)?;
                if value != Value::Null {
                    fields.insert(name.to_owned(), value);
                }
            }
        }
        for block in body.blocks() {
            let (name, bodies) = match (block.ident.as_str(), block.labels.first()) {
                ("lifecycle" | "connection" | "provisioner", _) => continue,
                ("dynamic", Some(label)) => (label.as_str(), self.dynamic(scope, label.as_str(), block)?),
                (name, _) => (name, vec![self.arguments(scope, &block.body)?]),
            };
            if let Value::List(values) = fields.entry(name.to_owned()).or_insert(Value::List(Vec::new())) {
                values.extend(bodies);
            }
        }
        Ok(Value::Map(fields))
    }

    fn dynamic(&self, scope: &Scope<'_, 'w>, label: &str, block: &Block) -> Result<Vec<Value>, Finding> {
        let iterator = match block.body.get_attribute("iterator").map(|attribute| &attribute.value) {
            Some(Expression::Variable(name)) => name.as_str(),
            _ => label,
        };
        let (Some(for_each), Some(content)) =
            (block.body.get_attribute("for_each"), block.body.get_blocks("content").next())
        else {
            return scope.fail(block, "a `dynamic` block has a `for_each` and a `content`");
        };
        let collection = scope.eval(&for_each.value)?;
        let mut bodies = Vec::new();
        for (key, value) in scope.pairs(for_each, &collection)? {
            let names = Value::Map([("key".to_owned(), key), ("value".to_owned(), value)].into());
            bodies.push(self.arguments(&scope.with([(iterator.to_owned(), names)]), &content.body)?);
        }
        Ok(bodies)
    }

    fn called(&self, name: &str) -> Result<Rc<Vec<(Value, Plan<'w>)>>, Finding> {
        let item = self.module.calls.get(name).ok_or(bare(format!("module `{name}` is not declared")))?;
        memoised(&self.children, name.to_owned(), &format!("module.{name}"), || {
            let called = self.world.called(self.module, name);
            let called =
                called.map_or_else(|| self.scope(&item.file).fail(&item.block, "its source is no folder here"), Ok)?;
            let mut children = Vec::new();
            for (each, names) in self.keys(item)? {
                let scope = self.scope(&item.file).with(names);
                let mut given = BTreeMap::new();
                for attribute in item.block.body.attributes() {
                    let argument = attribute.key.as_str();
                    if called.variables.contains_key(argument) {
                        given.insert(argument.to_owned(), scope.eval(&attribute.value)?);
                    }
                }
                let path = format!("{}module.{name}{}.", self.path, index(&each));
                children.push((each, Plan::new(self.world, called, self.root, path, given)));
            }
            Ok(children)
        })
    }

    pub(crate) fn outputs(&self, name: &str) -> Result<Rc<Value>, Finding> {
        let item = self.module.calls.get(name).ok_or(bare(format!("module `{name}` is not declared")))?;
        memoised(&self.outputs, name.to_owned(), &format!("module.{name}"), || {
            let children = self.called(name)?;
            let mut instances = Vec::new();
            for (key, child) in children.iter() {
                let outputs = child.module.outputs.keys().map(|output| Ok((output.clone(), child.output(output)?)));
                instances.push((key.clone(), Value::Map(outputs.collect::<Result<_, Finding>>()?)));
            }
            Ok(self.together(item, instances.into_iter()))
        })
    }

    /// Works everything out, here and in the modules called.
    pub fn everything(&self) -> (Vec<Rc<Resource>>, Vec<Finding>) {
        let mut resources = Vec::new();
        self.validate();
        for name in self.module.locals.keys() {
            self.local(name).map(|_| ()).unwrap_or_else(|why| self.say(why));
        }
        for name in self.module.outputs.keys() {
            self.output(name).map(|_| ()).unwrap_or_else(|why| self.say(why));
        }
        for key in self.module.resources.keys() {
            match self.instances(key) {
                Ok(instances) => resources.extend(instances.iter().map(|(_, resource)| resource.clone())),
                Err(why) => self.say(why),
            }
        }
        for name in self.module.calls.keys() {
            match self.called(name) {
                Ok(children) => {
                    for (_, child) in children.iter() {
                        let (inner, wrong) = child.everything();
                        resources.extend(inner);
                        self.findings.borrow_mut().extend(wrong);
                    }
                }
                Err(why) => self.say(why),
            }
        }
        let mut findings = self.findings.take();
        findings.sort();
        findings.dedup();
        (resources, findings)
    }
}

/// Without a place: who asks puts in its own.
fn bare(what: String) -> Finding {
    Finding { file: String::new(), line: 0, what }
}

/// Worked out once; what needs itself is found out.
fn memoised<K: Ord + Clone, V>(
    memo: &Memo<K, V>,
    key: K,
    what: &str,
    work: impl FnOnce() -> Result<V, Finding>,
) -> Result<Rc<V>, Finding> {
    match memo.borrow().get(&key) {
        Some(Some(outcome)) => return outcome.clone(),
        Some(None) => return Err(bare(format!("{what} hangs on itself"))),
        None => {}
    }
    memo.borrow_mut().insert(key.clone(), None);
    let outcome = work().map(Rc::new);
    memo.borrow_mut().insert(key, Some(outcome.clone()));
    outcome
}

fn index(key: &Value) -> String {
    match key {
        Value::Null => String::new(),
        Value::Number(number) => format!("[{number}]"),
        key => format!("[{}]", key.to_json()),
    }
}

/// Whether something unknown here is known to Terraform when it plans: it comes from variables and data sources alone.
fn at_plan_time(address: &str) -> bool {
    !address.contains("aws_")
        || (address.contains("data.aws_") && address.matches("aws_").count() == address.matches("data.aws_").count())
}

/// A resource as a reference sees it: what is written, what follows from it, and the rest unknown.
fn seen(resource: &Resource, schema: &Body) -> Value {
    let written = resource.arguments.as_map().cloned().unwrap_or_default();
    let mut fields = BTreeMap::new();
    for name in schema.attributes.keys().chain(schema.blocks.keys()) {
        let value = match (written.get(name), computed(resource, name)) {
            (Some(value), _) => value.clone(),
            (None, Some(text)) => Value::String(text),
            (None, None) if schema.blocks.contains_key(name) => Value::List(Vec::new()),
            (None, None) => Value::Unknown(format!("{}.{name}", resource.address)),
        };
        fields.insert(name.clone(), value);
    }
    Value::Map(fields)
}

/// Values that are not what the schema wants them to be.
fn shapes(resource: &Resource, arguments: &Value, schema: &Body) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, value) in arguments.as_map().into_iter().flatten() {
        if let Some(block) = schema.blocks.get(name) {
            let bodies = value.elements();
            findings.extend(bodies.iter().flat_map(|body| shapes(resource, body, &block.body)));
            if bodies.len() > 1 && !block.many {
                findings.push(resource.finding(format!("the block `{name}` may stand once")));
            }
            continue;
        }
        let Some(attribute) = schema.attributes.get(name) else { continue };
        let fits = match (attribute.shape, value) {
            (_, Value::Unknown(_) | Value::Null) | (Shape::Any, _) => true,
            (Shape::String, value) => value.text().is_some(),
            (Shape::Number, Value::String(text)) if text.contains("${") => true,
            (Shape::Number, value) => value.as_number().is_some(),
            (Shape::Bool, Value::String(text)) => text == "true" || text == "false" || text.contains("${"),
            (Shape::Bool, value) => value.as_bool().is_some(),
            (Shape::List, value) => matches!(value, Value::List(_) | Value::Set(_)),
            (Shape::Map | Shape::Object, value) => value.as_map().is_some(),
        };
        if !fits {
            findings.push(resource.finding(format!("`{name}` is {}: {}", value.kind(), value.to_json())));
        }
    }
    findings
}
