output "queues" {
  description = "URLs of the queues, by their names without prefix."
  value       = { for name, queue in aws_sqs_queue.this : name => queue.url }
}

output "buckets" {
  description = "Names of the buckets: witnesses are put into the first, `push0 get` reads from both."
  value       = { for name, bucket in aws_s3_bucket.this : name => bucket.bucket }
}

output "functions" {
  description = "Of each function its name, role and log."
  value = {
    for name, function in { dispatcher = module.dispatcher, collector = module.collector, reaper = module.reaper } :
    name => { name = function.name, role = function.role, log = function.log_group }
  }
}

output "pools" {
  description = "Of each pool its Auto Scaling group and its workers' role."
  value = {
    for name, pool in merge(module.pool, { (local.trusted) = module.trusted }) : name => { group = pool.group, role = pool.role }
  }
}

output "dashboard" {
  description = "Where the dashboard is."
  value       = "https://${data.aws_region.current.region}.console.aws.amazon.com/cloudwatch/home?region=${data.aws_region.current.region}#dashboards/dashboard/${aws_cloudwatch_dashboard.this.dashboard_name}"
}

output "environment" {
  description = "What `push0` needs to know to work with this installation: `eval \"$(terraform output -raw environment)\"`."
  value       = "export PUSH0_CONNECT=aws PUSH0_AWS_PREFIX=${var.prefix} AWS_REGION=${data.aws_region.current.region}\n"
}
