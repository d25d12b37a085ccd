//! What is to be seen in the text alone: reasons in comments, variables, outputs, versions.

use hcl_edit::Span;
use hcl_edit::expr::{Expression, ObjectKey};
use hcl_edit::structure::Body;

use crate::module::{Finding, Item, Module};
use crate::plan::World;

/// More are not understood by whoever has to set them.
const FEWER_VARIABLES_THAN: usize = 30;

pub(crate) fn check(world: &World, root: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for module in world.modules.values() {
        for item in module.resources.values() {
            Stars { world, module, item, findings: &mut findings }.body(&item.block.body);
        }
        for item in module.variables.values() {
            findings.extend(variable(world, module, item, module.dir == root));
        }
        for (name, item) in &module.outputs {
            if !is_described(item) {
                findings.push(module.finding(&item.file, &item.block, format!("output {name} is not described")));
            }
        }
        // The modules inside have theirs from the one that calls them.
        if !module.dir.starts_with(&format!("{root}/modules/")) {
            findings.extend(versions(world, module));
        }
    }
    findings.extend(world.modules.get(root).and_then(|module| one_version(world, module)));
    match world.modules.get(root) {
        None => findings.push(Finding { file: root.to_owned(), line: 0, what: "there is no module".to_owned() }),
        Some(module) if module.variables.len() >= FEWER_VARIABLES_THAN => {
            findings.push(module.remark(format!("it has {} variables", module.variables.len())));
        }
        Some(_) => {}
    }
    findings
}

fn is_described(item: &Item) -> bool {
    match item.attribute("description") {
        Some(Expression::String(text)) => !text.value().trim().is_empty(),
        Some(Expression::HeredocTemplate(heredoc)) => !heredoc.template.is_empty(),
        _ => false,
    }
}

/// Typed and described; the root's, which operators set, validated too: a truth has no domain, nor has what a comment in it says has none
/// (`# any: WHY`).
fn variable(world: &World, module: &Module, item: &Item, is_set_by_operators: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = item.block.labels.first().map(|label| label.as_str()).unwrap_or_default();
    let mut say =
        |what: &str| findings.push(module.finding(&item.file, &item.block, format!("variable {name} {what}")));
    let kind = item.attribute("type").map(|kind| kind.to_string().trim().to_owned());
    if kind.is_none() {
        say("has no type");
    }
    if !is_described(item) {
        say("is not described");
    }
    let span = item.block.span().unwrap_or_default();
    let block = world.tree.read(&item.file).and_then(|text| text.get(span)).unwrap_or_default();
    let free = block.lines().any(|line| line.split_once("# any: ").is_some_and(|(_, why)| !why.trim().is_empty()));
    if is_set_by_operators && kind.as_deref() != Some("bool") && !free && !item.block.body.has_blocks("validation") {
        say("has no validation, and no comment `# any: WHY`");
    }
    findings
}

/// The provider that the schema is of must be one that the module takes.
fn versions(world: &World, module: &Module) -> Vec<Finding> {
    let mut findings = Vec::new();
    let uses_aws = module.resources.keys().any(|(_, kind, _)| kind.starts_with("aws_"));
    let terraform: Vec<&Item> = module.others.iter().filter(|item| item.block.has_ident("terraform")).collect();
    if !terraform.iter().any(|item| item.attribute("required_version").is_some()) {
        findings.push(module.remark("it does not say which Terraform it needs: `required_version`"));
    }
    let required = terraform.iter().flat_map(|item| item.block.body.get_blocks("required_providers"));
    let aws = required.filter_map(|block| block.body.get_attribute("aws")).next().map(|attribute| &attribute.value);
    let Some(Expression::Object(aws)) = aws else {
        if uses_aws {
            findings.push(module.remark("it does not say which provider it needs: `required_providers`"));
        }
        return findings;
    };
    let version = aws.iter().find_map(|(key, value)| match key {
        ObjectKey::Ident(name) if name.as_str() == "version" => value.expr().as_str(),
        _ => None,
    });
    match version.map(|constraint| admits(constraint, &world.schema.provider)) {
        Some(Some(true)) => {}
        Some(Some(false)) => {
            let (constraint, provider) = (version.unwrap_or_default(), &world.schema.provider);
            findings.push(
                module.remark(format!("it takes hashicorp/aws {constraint}, and was checked against {provider}")),
            );
        }
        _ => findings.push(module.remark("it does not say which version of hashicorp/aws it needs")),
    }
    findings
}

/// The module and the functions' packages are of one version: the workspace's.
fn one_version(world: &World, module: &Module) -> Option<Finding> {
    let packages = world.tree.read("Cargo.toml").unwrap_or_default();
    let package = packages.split("[workspace.package]").nth(1)?;
    let functions =
        package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')).unwrap_or("unknown");
    let (file, value) = match module.locals.get("version") {
        Some(version) => version,
        None => return Some(module.remark("it has no local.version")),
    };
    let version = value.as_str().unwrap_or("not written out");
    (version != functions)
        .then(|| module.finding(file, value, format!("local.version is {version}, the functions are {functions}")))
}

/// Whether a version is among those of a constraint like `>= 6.0, < 7.0` or `~> 6.45`; none if the constraint cannot be read.
fn admits(constraint: &str, version: &str) -> Option<bool> {
    let numbers = |text: &str| -> Option<Vec<u32>> { text.split('.').map(|part| part.parse().ok()).collect() };
    let version = numbers(version)?;
    let mut all = true;
    for part in constraint.split(',').map(str::trim) {
        let at = part.find(|c: char| c.is_ascii_digit())?;
        let bound = numbers(&part[at..])?;
        all &= match part[..at].trim() {
            "" | "=" => version == bound,
            ">=" => version >= bound,
            ">" => version > bound,
            "<=" => version <= bound,
            "<" => version < bound,
            "~>" => version >= bound && version.starts_with(&bound[..bound.len().saturating_sub(1)]),
            _ => return None,
        };
    }
    Some(all)
}

/// `"*"` as a resource or an action of what a policy allows, without a comment on its line, or on lines of their own above, that says why.
struct Stars<'a> {
    world: &'a World,
    module: &'a Module,
    item: &'a Item,
    findings: &'a mut Vec<Finding>,
}

impl Stars<'_> {
    fn body(&mut self, body: &Body) {
        let denies = body.get_attribute("effect").and_then(|effect| effect.value.as_str()) == Some("Deny");
        for attribute in body.attributes() {
            match attribute.key.as_str() {
                "resources" | "actions" | "not_actions" | "not_resources" if denies => {}
                "resources" | "actions" => self.patterns(&attribute.value),
                "not_actions" | "not_resources" => self.say(attribute, "it allows all but what is listed"),
                _ => self.expression(&attribute.value),
            }
        }
        body.blocks().for_each(|block| self.body(&block.body));
    }

    /// Policies written as objects.
    fn expression(&mut self, expression: &Expression) {
        match expression {
            Expression::Object(object) => {
                let name = |key: &ObjectKey| match key {
                    ObjectKey::Ident(name) => name.as_str().to_owned(),
                    ObjectKey::Expression(key) => key.as_str().unwrap_or_default().to_owned(),
                };
                let fields: Vec<(String, &Expression)> =
                    object.iter().map(|(key, value)| (name(key), value.expr())).collect();
                let denies = fields.iter().any(|(name, value)| name == "Effect" && value.as_str() == Some("Deny"));
                for (name, value) in fields {
                    match name.as_str() {
                        "Resource" | "Action" if denies => {}
                        "Resource" | "Action" => self.patterns(value),
                        _ => self.expression(value),
                    }
                }
            }
            Expression::Array(array) => array.iter().for_each(|element| self.expression(element)),
            Expression::FuncCall(call) => call.args.iter().for_each(|arg| self.expression(arg)),
            Expression::Parenthesis(inner) => self.expression(inner.inner()),
            _ => {}
        }
    }

    fn patterns(&mut self, expression: &Expression) {
        match expression {
            Expression::Array(array) => array.iter().for_each(|element| self.patterns(element)),
            Expression::Conditional(conditional) => {
                self.patterns(&conditional.true_expr);
                self.patterns(&conditional.false_expr);
            }
            Expression::FuncCall(call) => call.args.iter().for_each(|arg| self.patterns(arg)),
            Expression::String(text)
                if text.value() == "*" || text.value().ends_with(":*") && !text.value().starts_with("arn:") =>
            {
                self.say(expression, &format!("\"{}\" in what a policy allows", text.value()));
            }
            _ => {}
        }
    }

    fn say(&mut self, at: &impl Span, what: &str) {
        let line = self.module.line(&self.item.file, at);
        let text = self.world.tree.read(&self.item.file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let reason = |line: &str| line.split_once('#').is_some_and(|(_, why)| why.trim().len() > 10);
        let own = lines.get(line.wrapping_sub(1)).is_some_and(|line| reason(line));
        let above =
            lines.get(line.wrapping_sub(2)).is_some_and(|line| line.trim_start().starts_with('#') && reason(line));
        if !own && !above {
            self.findings.push(self.module.finding(
                &self.item.file,
                at,
                format!("{what}, without a comment that says why"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::admits;

    #[test]
    fn constraints_admit_what_terraform_would_take() {
        for (constraint, wanted) in [
            (">= 6.0, < 7.0", Some(true)),
            ("~> 6.45", Some(true)),
            ("~> 6.46", Some(false)),
            ("~> 6.44.0", Some(false)),
            ("6.45.0", Some(true)),
            (">= 7", Some(false)),
            ("six", None),
        ] {
            assert_eq!(admits(constraint, "6.45.0"), wanted, "{constraint}");
        }
    }
}
