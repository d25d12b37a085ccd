# The pools that prove: a group of instances each, from zero to its most.

module "pool" {
  source   = "./modules/pool"
  for_each = var.pools

  pool    = each.key
  spec    = merge(each.value, { max_instances = each.value.max, min_instances = each.value.min })
  scaling = module.scaling[each.key]
  shared  = local.worker
  policy  = data.aws_iam_policy_document.worker[each.key].json
}

module "scaling" {
  source   = "./modules/scaling"
  for_each = var.pools

  queues             = [for name in local.work_queues[each.key] : module.topology.queues[name].name]
  timers             = module.topology.queues["timers"].name
  pool               = each.key
  namespace          = var.prefix
  group              = "${var.prefix}-${each.key}"
  slots              = each.value.slots
  tasks_per_instance = each.value.tasks_per_instance
}

locals {
  # Of each family of instances its GPU: memory in GiB and compute capability, from AWS's and NVIDIA's tables.
  gpus = {
    g4dn = { memory_gib = 16, compute_capability = 7.5 }
    g5   = { memory_gib = 24, compute_capability = 8.6 }
    g6   = { memory_gib = 24, compute_capability = 8.9 }
    g6e  = { memory_gib = 48, compute_capability = 8.9 }
    g7e  = { memory_gib = 96, compute_capability = 12.0 }
    p4d  = { memory_gib = 40, compute_capability = 8.0 }
    p5   = { memory_gib = 80, compute_capability = 9.0 }
  }
  worker = {
    prefix         = var.prefix
    subnets        = local.subnets
    security_group = aws_security_group.workers.id
    drain_s        = var.drain_s
    tags           = local.tags
    # Written to /etc/push0 when an instance starts.
    config = { for name in local.config_files : name => filebase64("${var.config}/${name}") }
  }
}

# What a worker may do: its own pool's queues and its own prefix of artifacts. No table, no deleting, and no verdicts but from the trusted pool.
data "aws_iam_policy_document" "worker" {
  for_each = local.work_queues

  statement {
    sid       = "Take"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"]
    resources = [for name in each.value : local.queue_arns[name]]
  }
  statement {
    sid       = "Report"
    actions   = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = [for name in concat(["results"], each.key == local.trusted ? ["verdicts"] : []) : local.queue_arns[name]]
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [local.prefix_arns["witnesses/"], local.prefix_arns["artifacts/"], local.prefix_arns["control/"]]
  }
  statement {
    sid       = "ReadTheVersionThatWasAdmitted"
    actions   = ["s3:GetObjectVersion"]
    resources = [local.prefix_arns["witnesses/"]]
  }
  statement {
    sid       = "Store"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${local.blobs["blobs"]}/artifacts/${each.key}/*"]
  }
  # Without it what is missing looks like what is forbidden.
  statement {
    sid       = "TellMissingFromForbidden"
    actions   = ["s3:ListBucket"]
    resources = values(local.blobs)
  }
  dynamic "statement" {
    for_each = var.kms_key == null ? [] : [var.kms_key]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}
