//! The checks of names and the working out, on a small installation with a small schema.

use super::*;

const SCHEMA: &str = r#"{"format": 1, "provider": "1.0.0", "configuration": {"attributes": {"region": {"type": "string", "use": "optional"}}, "blocks": {}},
    "data": {"aws_subnets": {"attributes": {"ids": {"type": "list", "use": "never"}}, "blocks": {}}},
    "resources": {
        "aws_sqs_queue": {"attributes": {
            "name": {"type": "string", "use": "required"}, "fifo_queue": {"type": "bool", "use": "optional"},
            "visibility_timeout_seconds": {"type": "number", "use": "optional"}, "redrive_policy": {"type": "string", "use": "optional"},
            "tags": {"type": "map", "use": "optional"},
            "arn": {"type": "string", "use": "never"}}, "blocks": {}},
        "aws_lambda_function": {"attributes": {
            "function_name": {"type": "string", "use": "required"}, "timeout": {"type": "number", "use": "optional"},
            "arn": {"type": "string", "use": "never"}, "qualified_arn": {"type": "string", "use": "never"}},
            "blocks": {"environment": {"use": "optional", "many": false,
                "attributes": {"variables": {"type": "map", "use": "optional"}}, "blocks": {}},
                "mount": {"use": "required", "many": true,
                "attributes": {"path": {"type": "string", "use": "required"}}, "blocks": {}}}}}}"#;

const MAIN: &str = r#"
locals {
  topology = jsondecode(file("${path.module}/topology.json"))
  queues   = { for queue in local.topology.queues : queue.name => queue }
  dead     = toset([for queue in local.topology.queues : queue.dead if queue.dead != null])
}
provider "aws" {
  region = var.region
}
variable "region" { type = string }
variable "pools" {
  type    = map(object({ size = number, spot = optional(bool, true) }))
  default = { cpu = { size = 1 } }
  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.size > 0])
    error_message = "A pool has a size."
  }
}
resource "aws_sqs_queue" "queue" {
  for_each                   = local.queues
  name                       = "demo-${each.key}"
  visibility_timeout_seconds = 6 * module.function[each.value.function].timeout
  redrive_policy             = each.value.dead == null ? null : jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead[each.value.dead].arn })
  tags                       = merge({ a = "b" }, each.key == "results" ? { c = "d" } : {})
}
resource "aws_sqs_queue" "dead" {
  for_each = local.dead
  name     = "demo-${each.key}"
}
module "function" {
  source   = "./function"
  for_each = toset(["collector"])
  name     = "demo-${each.key}"
  timeout  = 6
  paths    = [for pool, spec in var.pools : "/${pool}" if spec.spot]
}
output "functions" {
  value = { for name, function in module.function : name => function.arn }
}
data "aws_subnets" "all" {}
resource "aws_sqs_queue" "of_subnets" {
  count = length(data.aws_subnets.all.ids)
  name  = "demo-${data.aws_subnets.all.ids[count.index]}"
}
"#;

const FUNCTION: &str = r#"
variable "name" { type = string }
variable "timeout" { type = number }
variable "paths" {
  type    = list(string)
  default = []
}
resource "aws_lambda_function" "this" {
  function_name = var.name
  timeout       = var.timeout
  dynamic "environment" {
    for_each = length(var.paths) > 0 ? [1] : []
    content {
      variables = { PATHS = join(":", var.paths) }
    }
  }
  dynamic "mount" {
    for_each = toset(var.paths)
    iterator = path
    content {
      path = path.value
    }
  }
  lifecycle {
    ignore_changes = [timeout]
    precondition {
      condition     = var.timeout <= 900
      error_message = "Lambda ends at 900 s."
    }
  }
}
output "arn" { value = aws_lambda_function.this.arn }
output "timeout" { value = aws_lambda_function.this.timeout }
"#;

const TOPOLOGY: &str = r#"{"queues": [{"name": "results", "function": "collector", "dead": "results-dlq"}, {"name": "poison", "function": "collector", "dead": null}]}"#;

fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.insert("t/main.tf", MAIN);
    tree.insert("t/function/main.tf", FUNCTION);
    tree.insert("t/topology.json", TOPOLOGY);
    tree
}

fn said(tree: Tree) -> (Vec<Rc<Resource>>, String) {
    let world = World::read(tree, Rc::new(Schema::parse(SCHEMA).unwrap()), "t");
    let mut findings = names(&world);
    let plan = Plan::of_root(&world, &world.modules["t"], BTreeMap::new());
    let (resources, wrong) = plan.everything();
    findings.extend(wrong);
    (resources, findings.iter().map(|finding| format!("{finding}\n")).collect())
}

#[test]
fn a_good_installation_is_worked_out_to_the_last_instance() {
    let (resources, said) = said(tree());
    assert_eq!(said, "");
    let at = |address: &str| {
        resources.iter().find(|resource| resource.address == address).unwrap_or_else(|| panic!("no {address}"))
    };
    let results = at("aws_sqs_queue.queue[\"results\"]");
    assert_eq!(results.number("visibility_timeout_seconds"), Some(36.0));
    let dead = r#"{"deadLetterTargetArn":"arn:aws:sqs:eu-central-1:123456789012:demo-results-dlq"}"#;
    assert_eq!(results.text("redrive_policy").as_deref(), Some(dead));
    assert_eq!(results.text("tags.c").as_deref(), Some("d"));
    assert_eq!(at("aws_sqs_queue.queue[\"poison\"]").argument("redrive_policy"), None);
    let function = at("module.function[\"collector\"].aws_lambda_function.this");
    assert_eq!(function.text("environment.variables.PATHS").as_deref(), Some("/cpu"));
    assert_eq!(function.text("mount.path").as_deref(), Some("/cpu"));
    assert_eq!(at("aws_sqs_queue.of_subnets[0]").text("name").as_deref(), Some("demo-${data.aws_subnets.all.ids[0]}"));
    assert_eq!(resources.len(), 6);
}

#[test]
fn each_mistake_is_found_and_named() {
    for (file, old, new, wanted) in [
        ("main", "name     = \"demo-${each.key}\"\n}\nmodule", "nam = 1\n}\nmodule", "there is no argument `nam`"),
        ("main", "name     = \"demo-${each.key}\"\n}\nmodule", "}\nmodule", "`name` is missing"),
        (
            "main",
            "resource \"aws_sqs_queue\" \"dead\"",
            "resource \"aws_sqs_cue\" \"dead\"",
            "has no resource `aws_sqs_cue`",
        ),
        ("main", "aws_sqs_queue.dead[each.value.dead].arn", "aws_sqs_queue.dead.arn", "one must be picked"),
        (
            "main",
            "aws_sqs_queue.dead[each.value.dead].arn",
            "aws_sqs_queue.dead[each.value.dead].anr",
            "no attribute `anr`",
        ),
        (
            "main",
            "aws_sqs_queue.dead[each.value.dead]",
            "aws_sqs_queue.bed[each.value.dead]",
            "aws_sqs_queue.bed is not declared",
        ),
        ("main", "aws_sqs_queue.dead[each.value.dead]", "aws_sqs_queue.dead[\"x\"]", "there is no `x` in it"),
        ("main", "for_each = local.dead", "for_each = local.deed", "local `deed` is not declared"),
        ("main", "for_each = local.dead", "for_each = [\"a\"]", "takes a map or a set"),
        ("main", "for_each = local.dead", "for_each = toset([aws_sqs_queue.of_subnets[0].id])", "no attribute `id`"),
        ("main", "for_each = local.dead", "count = 2", "there is no `each` here"),
        ("main", "timeout  = 6", "timeout  = \"long\"", "a string where a number is wanted"),
        ("main", "timeout  = 6", "timeout  = 901", "Lambda ends at 900 s."),
        ("main", "timeout  = 6", "time_out = 6", "has no variable `time_out`"),
        ("main", "timeout  = 6", "", "`timeout` is missing"),
        ("main", "\"./function\"", "\"./functions\"", "its source is no folder here"),
        ("main", "].timeout", "].time", "has no output `time`"),
        ("main", "{ size = 1 }", "{ size = 0 }", "variable pools is refused: A pool has a size."),
        ("main", "{ size = 1 }", "{ size = 1, sport = true }", "there is no field `sport`"),
        ("main", "merge(", "murge(", "no function `murge`"),
        ("main", "length(data", "length(1, data", "`length` takes 1 arguments, here 2"),
        ("main", "topology.json", "topologie.json", "there is no file t/topologie.json"),
        ("main", "region = var.region", "regoin = var.region", "there is no argument `regoin`"),
        ("main", "each.value.function]", "each.val.function]", "`each` has key and value"),
        ("main", "6 * module", "\"a\" * module", "a string * a number"),
        ("function", "variables = {", "variable = {", "there is no argument `variable`"),
        ("function", "variables = { PATHS = join(\":\", var.paths) }", "variables = \"x\"", "`variables` is a string"),
        ("function", "[1] : []", "[1, 2] : []", "the block `environment` may stand once"),
        ("function", "path = path.value", "", "`path` is missing"),
        ("function", "path = path.value", "path = mount.value", "mount.value is not declared"),
        ("function", "dynamic \"mount\"", "dynamic \"mont\"", "there is no such block"),
        ("function", "[timeout]", "[timeuot]", "`timeuot`, which there is none of"),
        ("function", "lifecycle {", "environment = {}\nlifecycle {", "`environment` is a block"),
        ("function", "lifecycle {", "arn = \"x\"\nlifecycle {", "`arn` is set by the provider"),
        ("function", "aws_lambda_function.this.timeout", "aws_lambda_function.this[0].timeout", "none can be picked"),
    ] {
        let mut tree = tree();
        let path = if file == "main" { "t/main.tf" } else { "t/function/main.tf" };
        tree.replace(path, old, new).unwrap();
        let (_, said) = said(tree);
        assert!(said.contains(wanted), "{old} -> {new}: `{wanted}` is not in:\n{said}");
    }
}
