# Buckets: witnesses, artifacts, control blobs, proofs.

locals {
  notifications = flatten([
    for name, bucket in module.topology.buckets : [
      for notification in bucket.notifications : merge(notification, { bucket = name })
    ]
  ])
  # Written once: a second writer is refused, whoever it is.
  written_once = {
    for name, bucket in module.topology.buckets : name => [
      for prefix in bucket.prefixes : prefix if contains(["artifacts/", "proofs/"], prefix)
    ]
  }
}

# Nothing is said of object lock here: the provider would make the bucket anew, without what is in it. The lock's own resource switches it on.
resource "aws_s3_bucket" "this" {
  for_each = module.topology.buckets

  bucket        = "${var.prefix}-${each.key}"
  force_destroy = !var.deletion_protection
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = module.topology.buckets

  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = module.topology.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = module.topology.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key
    }
  }
}

# Object lock wants versions, too.
resource "aws_s3_bucket_versioning" "this" {
  for_each = {
    for name, bucket in module.topology.buckets : name => bucket
    if bucket.versioned || (var.proof_lock_days > 0 && contains(bucket.prefixes, "proofs/"))
  }

  bucket = aws_s3_bucket.this[each.key].id

  versioning_configuration {
    status = "Enabled"
  }
}

# Only what no block can need goes by age: parts of uploads that were never completed, overwritten versions, and marks of deletions with nothing
# behind them. A bucket that was locked once keeps its versions after the lock, so the second rule is every bucket's.
resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = module.topology.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    id     = "aborted-uploads"
    status = "Enabled"

    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = each.value.abort_uploads_after_days
    }
  }
  rule {
    id     = "old-versions"
    status = "Enabled"

    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.old_version_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_object_lock_configuration" "proofs" {
  for_each = {
    for name, bucket in module.topology.buckets : name => bucket
    if var.proof_lock_days > 0 && contains(bucket.prefixes, "proofs/")
  }

  # Of everything that comes into this bucket: what the reaper deletes is hidden at once, and gone when its lock and `old_version_days` are over.
  bucket = aws_s3_bucket.this[each.key].id

  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.proof_lock_days
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_notification" "this" {
  for_each = { for name, bucket in module.topology.buckets : name => bucket if length(bucket.notifications) > 0 }

  bucket = aws_s3_bucket.this[each.key].id

  dynamic "queue" {
    for_each = each.value.notifications

    content {
      queue_arn     = aws_sqs_queue.this[queue.value.queue].arn
      events        = queue.value.events
      filter_prefix = queue.value.prefix
    }
  }

  # S3 tries the queue before it takes the configuration.
  depends_on = [aws_sqs_queue_policy.this]
}

data "aws_iam_policy_document" "bucket" {
  for_each = module.topology.buckets

  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.this[each.key].arn, "${aws_s3_bucket.this[each.key].arn}/*"]

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
    for_each = length(local.written_once[each.key]) > 0 ? [local.written_once[each.key]] : []

    content {
      sid       = "WrittenOnce"
      effect    = "Deny"
      actions   = ["s3:PutObject"]
      resources = [for prefix in statement.value : "${aws_s3_bucket.this[each.key].arn}/${prefix}*"]

      principals {
        type        = "*"
        identifiers = ["*"]
      }
      # Parts of an upload have no such header; its completion has.
      condition {
        test     = "Null"
        variable = "s3:if-none-match"
        values   = ["true"]
      }
      condition {
        test     = "Bool"
        variable = "s3:ObjectCreationOperation"
        values   = ["true"]
      }
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = module.topology.buckets

  bucket = aws_s3_bucket.this[each.key].id
  policy = data.aws_iam_policy_document.bucket[each.key].json

  depends_on = [aws_s3_bucket_public_access_block.this]
}
