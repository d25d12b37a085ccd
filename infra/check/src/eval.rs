//! Expressions, worked out.

use std::collections::BTreeMap;
use std::rc::Rc;

use hcl_edit::Span;
use hcl_edit::expr::{
    BinaryOp, BinaryOperator, Expression, ForExpr, FuncCall, Object, ObjectKey, Traversal, TraversalOperator, UnaryOp,
    UnaryOperator,
};
use hcl_edit::repr::Decorated;
use hcl_edit::template::{Directive, Element, StringTemplate, Template};

use crate::functions;
use crate::module::{Finding, Kind};
use crate::plan::Plan;
use crate::value::Value;

/// Where an expression stands: its module, its file, and what is named there besides (`each`, `count`, `self`, the variables of `for`).
#[derive(Clone)]
pub(crate) struct Scope<'p, 'w> {
    pub(crate) plan: &'p Plan<'w>,
    pub(crate) file: String,
    pub(crate) names: BTreeMap<String, Value>,
}

type Outcome = Result<Value, Finding>;

impl Scope<'_, '_> {
    pub(crate) fn with(&self, names: impl IntoIterator<Item = (String, Value)>) -> Self {
        let mut scope = self.clone();
        scope.names.extend(names);
        scope
    }

    pub(crate) fn fail<T>(&self, at: &impl Span, what: impl Into<String>) -> Result<T, Finding> {
        Err(self.plan.module.finding(&self.file, at, what))
    }

    pub(crate) fn eval(&self, expression: &Expression) -> Outcome {
        match expression {
            Expression::Null(_) => Ok(Value::Null),
            Expression::Bool(value) => Ok(Value::Bool(*value.value())),
            Expression::Number(number) => Ok(Value::Number(number.value().as_f64().unwrap_or_default())),
            Expression::String(text) => Ok(Value::string(text.value().as_str())),
            Expression::Array(array) => {
                Ok(Value::List(array.iter().map(|element| self.eval(element)).collect::<Result<_, _>>()?))
            }
            Expression::Object(object) => self.object(object),
            Expression::StringTemplate(template) => self.string(expression, template),
            Expression::HeredocTemplate(heredoc) => Ok(Value::String(self.template(&heredoc.template)?)),
            Expression::Parenthesis(inner) => self.eval(inner.inner()),
            Expression::Variable(name) => match self.names.get(name.as_str()) {
                Some(value) => Ok(value.clone()),
                None => self.fail(expression, format!("nothing here is called `{}`", name.as_str())),
            },
            Expression::Conditional(conditional) => match self.eval(&conditional.cond_expr)? {
                Value::Bool(true) => self.eval(&conditional.true_expr),
                Value::Bool(false) => self.eval(&conditional.false_expr),
                Value::Unknown(address) => Ok(Value::Unknown(format!("({address} ? ...)"))),
                other => self.fail(expression, format!("{} where a condition is wanted", other.kind())),
            },
            Expression::FuncCall(call) => self.call(call),
            Expression::Traversal(traversal) => self.traversal(traversal),
            Expression::UnaryOp(operation) => self.unary(operation),
            Expression::BinaryOp(operation) => self.binary(operation),
            Expression::ForExpr(each) => self.for_expression(each),
        }
    }

    fn object(&self, object: &Object) -> Outcome {
        let mut fields = BTreeMap::new();
        for (key, value) in object.iter() {
            let key = match key {
                ObjectKey::Ident(name) | ObjectKey::Expression(Expression::Variable(name)) => name.as_str().to_owned(),
                ObjectKey::Expression(key) => match self.eval(key)?.text() {
                    Some(key) => key,
                    None => return self.fail(key, "this is no key"),
                },
            };
            fields.insert(key, self.eval(value.expr())?);
        }
        Ok(Value::Map(fields))
    }

    fn string(&self, at: &Expression, template: &StringTemplate) -> Outcome {
        let mut elements = template.iter();
        // "${x}" is x itself, whatever it is.
        if let (Some(Element::Interpolation(only)), None) = (elements.next(), elements.next()) {
            return self.eval(&only.expr);
        }
        let mut out = String::new();
        self.elements(template.iter(), &mut out)
            .or_else(|why| if why.line == 0 { self.fail(at, why.what) } else { Err(why) })?;
        Ok(Value::String(out))
    }

    pub(crate) fn template(&self, template: &Template) -> Result<String, Finding> {
        let mut out = String::new();
        self.elements(template.iter(), &mut out)?;
        Ok(out)
    }

    fn elements<'t>(&self, elements: impl Iterator<Item = &'t Element>, out: &mut String) -> Result<(), Finding> {
        for element in elements {
            match element {
                Element::Literal(text) => out.push_str(text.value()),
                Element::Interpolation(inner) => {
                    let value = self.eval(&inner.expr)?;
                    match value.text() {
                        Some(text) => out.push_str(&text),
                        None => return self.fail(&inner.expr, format!("{} in a string", value.kind())),
                    }
                }
                Element::Directive(directive) => self.directive(directive, out)?,
            }
        }
        Ok(())
    }

    fn directive(&self, directive: &Directive, out: &mut String) -> Result<(), Finding> {
        match directive {
            Directive::If(branch) => match (self.eval(&branch.if_expr.cond_expr)?, &branch.else_expr) {
                (Value::Bool(false), None) => Ok(()),
                (Value::Bool(false), Some(other)) => self.elements(other.template.iter(), out),
                _ => self.elements(branch.if_expr.template.iter(), out),
            },
            Directive::For(each) => {
                let each = &each.for_expr;
                let collection = self.eval(&each.collection_expr)?;
                for (key, value) in self.pairs(&each.collection_expr, &collection)? {
                    let key = each.key_var.as_ref().map(|name| (name.as_str().to_owned(), key));
                    let scope = self.with(key.into_iter().chain([(each.value_var.as_str().to_owned(), value)]));
                    scope.elements(each.template.iter(), out)?;
                }
                Ok(())
            }
        }
    }

    /// Keys and values of a collection, in Terraform's order.
    pub(crate) fn pairs(&self, at: &impl Span, collection: &Value) -> Result<Vec<(Value, Value)>, Finding> {
        match collection {
            Value::List(values) => {
                Ok(values.iter().enumerate().map(|(at, value)| (Value::Number(at as f64), value.clone())).collect())
            }
            Value::Set(values) => Ok(values.iter().map(|value| (value.clone(), value.clone())).collect()),
            Value::Map(fields) => Ok(fields.iter().map(|(key, value)| (Value::string(key), value.clone())).collect()),
            Value::Unknown(address) => {
                let unknown = |part: &str| Value::Unknown(format!("{address}[*].{part}"));
                Ok(vec![(unknown("key"), unknown("value"))])
            }
            other => self.fail(at, format!("{} where a collection is wanted", other.kind())),
        }
    }

    fn for_expression(&self, each: &ForExpr) -> Outcome {
        let collection = self.eval(&each.intro.collection_expr)?;
        if let Value::Unknown(address) = &collection {
            return Ok(Value::Unknown(format!("for({address})")));
        }
        let mut list = Vec::new();
        let mut map: BTreeMap<String, Value> = BTreeMap::new();
        for (key, value) in self.pairs(&each.intro.collection_expr, &collection)? {
            let name = each.intro.key_var.as_ref().map(|name| (name.as_str().to_owned(), key));
            let scope = self.with(name.into_iter().chain([(each.intro.value_var.as_str().to_owned(), value)]));
            if let Some(condition) = &each.cond
                && scope.eval(&condition.expr)? == Value::Bool(false)
            {
                continue;
            }
            let value = scope.eval(&each.value_expr)?;
            let Some(key) = &each.key_expr else {
                list.push(value);
                continue;
            };
            let Some(text) = scope.eval(key)?.text() else { return self.fail(key, "this is no key") };
            match (each.grouping, map.get_mut(&text)) {
                (true, Some(Value::List(values))) => values.push(value),
                (true, _) => _ = map.insert(text, Value::List(vec![value])),
                (false, Some(_)) => return self.fail(key, format!("the key {text} comes twice")),
                (false, None) => _ = map.insert(text, value),
            }
        }
        Ok(if each.key_expr.is_some() { Value::Map(map) } else { Value::List(list) })
    }

    fn unary(&self, operation: &UnaryOp) -> Outcome {
        match (operation.operator.value(), self.eval(&operation.expr)?) {
            (_, Value::Unknown(address)) => Ok(Value::Unknown(format!("!{address}"))),
            (UnaryOperator::Not, Value::Bool(value)) => Ok(Value::Bool(!value)),
            (UnaryOperator::Neg, Value::Number(number)) => Ok(Value::Number(-number)),
            (operator, other) => self.fail(&operation.expr, format!("`{operator}` of {}", other.kind())),
        }
    }

    fn binary(&self, operation: &BinaryOp) -> Outcome {
        use BinaryOperator as Op;
        let operator = *operation.operator.value();
        let left = self.eval(&operation.lhs_expr)?;
        let right = self.eval(&operation.rhs_expr)?;
        let unknown = || Ok(Value::Unknown(format!("(... {operator} ...)")));
        match (operator, &left, &right) {
            // What one side decides, the other need not be known for.
            (Op::And, Value::Bool(false), _) | (Op::And, _, Value::Bool(false)) => return Ok(Value::Bool(false)),
            (Op::Or, Value::Bool(true), _) | (Op::Or, _, Value::Bool(true)) => return Ok(Value::Bool(true)),
            // What an operator has to give is not null.
            (Op::Eq | Op::NotEq, Value::Null, Value::Unknown(what))
            | (Op::Eq | Op::NotEq, Value::Unknown(what), Value::Null)
                if what.starts_with("var.") =>
            {
                return Ok(Value::Bool(operator == Op::NotEq));
            }
            (Op::Eq | Op::NotEq, Value::Null, other) | (Op::Eq | Op::NotEq, other, Value::Null)
                if !matches!(other, Value::Unknown(_)) =>
            {
                return Ok(Value::Bool((*other == Value::Null) == (operator == Op::Eq)));
            }
            _ => {}
        }
        if !left.is_known() || !right.is_known() {
            return unknown();
        }
        if let Op::Eq | Op::NotEq = operator {
            let same = left == right || (!left.elements().is_empty() && left.elements() == right.elements());
            return Ok(Value::Bool(same == (operator == Op::Eq)));
        }
        if let (Value::Bool(left), Value::Bool(right)) = (&left, &right) {
            match operator {
                Op::And => return Ok(Value::Bool(*left && *right)),
                Op::Or => return Ok(Value::Bool(*left || *right)),
                _ => {}
            }
        }
        let (Some(a), Some(b)) = (left.as_number(), right.as_number()) else {
            return self.fail(&operation.lhs_expr, format!("{} {operator} {}", left.kind(), right.kind()));
        };
        Ok(match operator {
            Op::Plus => Value::Number(a + b),
            Op::Minus => Value::Number(a - b),
            Op::Mul => Value::Number(a * b),
            Op::Div => Value::Number(a / b),
            Op::Mod => Value::Number(a % b),
            Op::Less => Value::Bool(a < b),
            Op::LessEq => Value::Bool(a <= b),
            Op::Greater => Value::Bool(a > b),
            Op::GreaterEq => Value::Bool(a >= b),
            Op::Eq | Op::NotEq | Op::And | Op::Or => {
                return self.fail(&operation.lhs_expr, format!("{} {operator} {}", left.kind(), right.kind()));
            }
        })
    }

    fn call(&self, call: &FuncCall) -> Outcome {
        let name = call.name.name.as_str();
        let at = &call.name.name;
        if name == "try" {
            let mut last = None;
            for arg in call.args.iter() {
                match self.eval(arg) {
                    Ok(value) => return Ok(value),
                    Err(why) => last = Some(why),
                }
            }
            return last.map_or_else(|| self.fail(at, "`try` of nothing"), Err);
        }
        if let ("can", Some(arg)) = (name, call.args.get(0)) {
            return Ok(match self.eval(arg) {
                Ok(Value::Unknown(address)) => Value::Unknown(format!("can({address})")),
                outcome => Value::Bool(outcome.is_ok()),
            });
        }
        let mut args = call.args.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
        if call.args.expand_final() {
            match args.pop() {
                Some(Value::List(values) | Value::Set(values)) => args.extend(values),
                Some(Value::Unknown(address)) => return Ok(Value::Unknown(format!("{name}({address}...)"))),
                other => {
                    return self.fail(at, format!("`...` after {}", other.map_or("nothing", |other| other.kind())));
                }
            }
        }
        let outcome = match (name, args.as_slice()) {
            ("file" | "filebase64" | "fileexists" | "fileset" | "templatefile", [Value::String(path), rest @ ..])
                if !path.contains("${") =>
            {
                self.of_file(name, path, rest)
            }
            // Of packages that are built elsewhere.
            ("filebase64sha256" | "filesha256" | "filemd5" | "filesha1", [Value::String(path)]) => {
                Ok(Value::Unknown(format!("{name}({path})")))
            }
            _ => functions::call(name, args),
        };
        outcome.or_else(|why| self.fail(at, why))
    }

    fn of_file(&self, name: &str, path: &str, rest: &[Value]) -> Result<Value, String> {
        let tree = &self.plan.world.tree;
        // Packages lie among what was built.
        if !tree.covers(path) {
            return Ok(Value::Unknown(format!("{name}({path})")));
        }
        match (name, rest) {
            ("fileexists", []) => return Ok(Value::Bool(tree.read(path).is_some())),
            ("fileset", [Value::String(pattern)]) if pattern == "**" => {
                let dir = crate::tree::plain(path);
                let inside = tree.under(&dir).filter_map(|(path, _)| path.strip_prefix(&dir)?.strip_prefix('/'));
                return Ok(Value::set(inside.map(Value::string)));
            }
            _ => {}
        }
        let text = tree.read(path).ok_or(format!("there is no file {path}"))?;
        match (name, rest) {
            ("file", []) => Ok(Value::string(text)),
            ("filebase64", []) => Ok(Value::Unknown(format!("filebase64({path})"))),
            ("templatefile", [Value::Map(names)]) => {
                let template: Template = text.parse().map_err(|error| format!("{path}: {error}"))?;
                let scope = Scope { plan: self.plan, file: crate::tree::plain(path), names: names.clone() };
                scope.template(&template).map(Value::String).map_err(|why| format!("{path}: {}", why.what))
            }
            _ => Err(format!("`{name}` does not take this")),
        }
    }

    fn traversal(&self, traversal: &Traversal) -> Outcome {
        let Expression::Variable(root) = &traversal.expr else {
            let value = self.eval(&traversal.expr)?;
            return self.pick(traversal, &value, &traversal.operators);
        };
        let root = root.as_str();
        if let Some(value) = self.names.get(root) {
            return self.pick(traversal, value, &traversal.operators);
        }
        let word = |at: usize| match traversal.operators.get(at).map(|operator| operator.value()) {
            Some(TraversalOperator::GetAttr(name)) => Some(name.as_str()),
            _ => None,
        };
        let plan = self.plan;
        let (value, used) = match (root, word(0), word(1)) {
            ("var", Some(name), _) => (plan.variable(name).map(Rc::new), 1),
            ("local", Some(name), _) => (plan.local(name), 1),
            ("module", Some(name), _) => (plan.outputs(name), 1),
            ("path", Some("module"), _) => (Ok(Rc::new(Value::string(plan.module.dir.as_str()))), 1),
            ("path", Some("root" | "cwd"), _) => (Ok(Rc::new(Value::string(plan.root))), 1),
            ("terraform", Some("workspace"), _) => (Ok(Rc::new(Value::string("default"))), 1),
            ("data", Some(kind), Some(name)) => (plan.value_of(&(Kind::Data, kind.to_owned(), name.to_owned())), 2),
            (kind, Some(name), _) => (plan.value_of(&(Kind::Resource, kind.to_owned(), name.to_owned())), 1),
            (root, None, _) => return self.fail(traversal, format!("nothing here is called `{root}`")),
        };
        let value = value.or_else(|why| if why.line == 0 { self.fail(traversal, why.what) } else { Err(why) })?;
        self.pick(traversal, &value, &traversal.operators[used..])
    }

    fn pick(&self, at: &Traversal, value: &Value, operators: &[Decorated<TraversalOperator>]) -> Outcome {
        let Some((operator, rest)) = operators.split_first() else { return Ok(value.clone()) };
        let (key, full) = match operator.value() {
            TraversalOperator::GetAttr(name) => (Value::string(name.as_str()), false),
            TraversalOperator::Index(index) => (self.eval(index)?, false),
            TraversalOperator::LegacyIndex(index) => (Value::Number(*index.value() as f64), false),
            TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => (Value::Null, true),
        };
        match (value, &key) {
            (Value::Unknown(address), _) if full => Ok(Value::Unknown(format!("{address}[*]"))),
            (Value::Unknown(address), key) => {
                let inner = Value::Unknown(match operator.value() {
                    TraversalOperator::GetAttr(name) => format!("{address}.{}", name.as_str()),
                    _ => format!("{address}[{}]", key.text().unwrap_or_default()),
                });
                self.pick(at, &inner, rest)
            }
            (Value::Null, _) if full => Ok(Value::List(Vec::new())),
            (Value::List(values) | Value::Set(values), _) if full => {
                Ok(Value::List(values.iter().map(|value| self.pick(at, value, rest)).collect::<Result<_, _>>()?))
            }
            (other, _) if full => Ok(Value::List(vec![self.pick(at, other, rest)?])),
            (_, Value::Unknown(address)) => Ok(Value::Unknown(format!("[{address}]"))),
            (Value::Map(fields), key) => {
                let key = key.text().unwrap_or_default();
                match fields.get(&key) {
                    Some(value) => self.pick(at, value, rest),
                    None if key.contains("${") => Ok(Value::Unknown(format!("[{key}]"))),
                    None => {
                        let known: Vec<&str> = fields.keys().take(8).map(String::as_str).collect();
                        self.fail(at, format!("there is no `{key}` in it, but {}", known.join(", ")))
                    }
                }
            }
            (Value::List(values), key) => match key.as_number().and_then(|at| values.get(at as usize)) {
                Some(value) => self.pick(at, value, rest),
                None => self.fail(at, format!("a list of {} has no such element", values.len())),
            },
            (other, _) => self.fail(at, format!("{} has nothing in it to pick", other.kind())),
        }
    }
}
