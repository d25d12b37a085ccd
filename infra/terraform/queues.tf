# Queues, who may send to them from outside, and where their dead letters go.

resource "aws_sqs_queue" "this" {
  for_each = module.topology.queues

  name                       = each.value.name
  fifo_queue                 = each.value.is_fifo ? true : null
  deduplication_scope        = each.value.deduplication_scope
  fifo_throughput_limit      = each.value.throughput_limit
  visibility_timeout_seconds = each.value.visibility_s
  message_retention_seconds  = each.value.retention_s
  receive_wait_time_seconds  = 20
  max_message_size           = 262144
  sqs_managed_sse_enabled    = var.kms_key == null ? true : null
  kms_master_key_id          = var.kms_key
  tags                       = local.tags
}

resource "aws_sqs_queue_redrive_policy" "this" {
  for_each = { for name, queue in module.topology.queues : name => queue if queue.dead_letter_queue != null }

  queue_url = aws_sqs_queue.this[each.key].id
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.this[each.value.dead_letter_queue].arn
    maxReceiveCount     = each.value.max_receives
  })
}

resource "aws_sqs_queue_redrive_allow_policy" "this" {
  for_each = module.topology.queues

  queue_url = aws_sqs_queue.this[each.key].id
  redrive_allow_policy = jsonencode(each.value.dead_letters_of == null
    ? { redrivePermission = "denyAll", sourceQueueArns = null }
    : { redrivePermission = "byQueue", sourceQueueArns = [aws_sqs_queue.this[each.value.dead_letters_of].arn] }
  )
}

# TLS only; and S3 may tell of uploads, this account's buckets alone: a name that was given up can be taken by another account.
data "aws_iam_policy_document" "queue" {
  for_each = module.topology.queues

  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.this[each.key].arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  dynamic "statement" {
    for_each = toset([for notification in local.notifications : notification.bucket if notification.queue == each.key])

    content {
      sid       = "UploadsOf${title(statement.value)}"
      actions   = ["sqs:SendMessage"]
      resources = [aws_sqs_queue.this[each.key].arn]

      principals {
        type        = "Service"
        identifiers = ["s3.amazonaws.com"]
      }
      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [aws_s3_bucket.this[statement.value].arn]
      }
      condition {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [data.aws_caller_identity.current.account_id]
      }
    }
  }
}

resource "aws_sqs_queue_policy" "this" {
  for_each = module.topology.queues

  queue_url = aws_sqs_queue.this[each.key].id
  policy    = data.aws_iam_policy_document.queue[each.key].json
}
