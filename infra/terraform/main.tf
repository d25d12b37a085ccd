# push0 in an AWS account. What there is (queues, table, buckets, functions and their sources) is said in infra/topology.json and nowhere else.

module "topology" {
  source = "./modules/topology"
  prefix = var.prefix
  pools  = concat(keys(var.pools), [local.trusted])
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  # The module and the functions' packages are of one version; the packages' names in the release say it, too.
  version = "0.1.0"
  trusted = "trusted"
  tags    = merge(var.tags, { push0 = var.prefix, "push0:version" = local.version })

  # docs/invariants.md; there is no I13.
  invariants = [for number in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16] : "I${number}"]

  queue_arns = { for name, queue in aws_sqs_queue.this : name => queue.arn }
  work_queues = {
    for pool in concat(keys(var.pools), [local.trusted]) : pool => [
      for class in module.topology.classes : "work-${pool}-${class}"
    ]
  }
  config_files = fileset(var.config, "**")
}
