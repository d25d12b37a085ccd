# The table with the chains' order and what became of every task.

resource "aws_dynamodb_table" "this" {
  for_each = module.topology.tables

  name                        = "${var.prefix}-${each.key}"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = each.value.partition_key
  range_key                   = each.value.sort_key
  deletion_protection_enabled = var.deletion_protection
  tags                        = local.tags

  attribute {
    name = each.value.partition_key
    type = "S"
  }
  attribute {
    name = each.value.sort_key
    type = "S"
  }
  dynamic "ttl" {
    for_each = each.value.ttl_attribute == null ? [] : [each.value.ttl_attribute]

    content {
      attribute_name = ttl.value
      enabled        = true
    }
  }
  point_in_time_recovery {
    enabled = each.value.point_in_time_recovery
  }
  server_side_encryption {
    enabled     = var.kms_key != null
    kms_key_arn = var.kms_key
  }
}
