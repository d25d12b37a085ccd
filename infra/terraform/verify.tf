# The trusted pool: splits witnesses and verifies proofs. What it says of a proof is believed, so it runs nothing but that, is not Spot, and does not
# scale to zero.

module "trusted" {
  source = "./modules/pool"

  pool = local.trusted
  spec = merge(var.trusted, {
    min_instances     = var.trusted.instances
    max_instances     = var.trusted.instances
    on_demand_base    = var.trusted.instances
    on_demand_percent = 100
    gpu               = null
  })
  scaling  = null
  shared   = local.worker
  policy   = data.aws_iam_policy_document.trusted.json
  is_fixed = true
}

data "aws_iam_policy_document" "trusted" {
  statement {
    sid       = "Take"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"]
    resources = [for name in local.work_queues[local.trusted] : local.queue_arns[name]]
  }
  statement {
    sid       = "Report"
    actions   = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = [local.queue_arns["results"], local.queue_arns["verdicts"]]
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject", "s3:GetObjectVersion"]
    resources = [local.prefix_arns["witnesses/"], local.prefix_arns["artifacts/"], local.prefix_arns["control/"]]
  }
  statement {
    sid       = "Store"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${local.blobs["blobs"]}/artifacts/${local.trusted}/*"]
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
