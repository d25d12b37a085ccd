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
  })
  scaling = null
  shared  = local.worker
  policy  = data.aws_iam_policy_document.worker[local.trusted].json
}
