# Where workers are: an existing network, or one with private subnets and one way out. Functions are outside of it and need none.

data "aws_availability_zones" "here" {
  state = "available"
}

locals {
  makes_network = var.network == null
  zones         = local.makes_network ? slice(data.aws_availability_zones.here.names, 0, min(var.zones, length(data.aws_availability_zones.here.names))) : []
  vpc           = local.makes_network ? aws_vpc.this[0].id : var.network.vpc
  subnets       = local.makes_network ? aws_subnet.private[*].id : var.network.subnets
}

resource "aws_vpc" "this" {
  count = local.makes_network ? 1 : 0

  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = var.prefix })
}

# No rule: nobody uses it by accident.
resource "aws_default_security_group" "this" {
  count = local.makes_network ? 1 : 0

  vpc_id = aws_vpc.this[0].id
}

resource "aws_subnet" "private" {
  count = length(local.zones)

  vpc_id            = aws_vpc.this[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.cidr, 4, count.index)
  tags              = merge(local.tags, { Name = "${var.prefix}-private-${local.zones[count.index]}" })
}

# Of the public subnet only the NAT gateway is made: one, since what workers need all the time (S3) does not go through it.
resource "aws_subnet" "public" {
  count = local.makes_network ? 1 : 0

  vpc_id            = aws_vpc.this[0].id
  availability_zone = local.zones[0]
  cidr_block        = cidrsubnet(var.cidr, 8, 255)
  tags              = merge(local.tags, { Name = "${var.prefix}-public" })
}

resource "aws_internet_gateway" "this" {
  count = local.makes_network ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = var.prefix })
}

resource "aws_eip" "nat" {
  count = local.makes_network ? 1 : 0

  domain = "vpc"
  tags   = merge(local.tags, { Name = "${var.prefix}-nat" })

  depends_on = [aws_internet_gateway.this]
}

resource "aws_nat_gateway" "this" {
  count = local.makes_network ? 1 : 0

  allocation_id = aws_eip.nat[0].id
  subnet_id     = aws_subnet.public[0].id
  tags          = merge(local.tags, { Name = var.prefix })
}

resource "aws_route_table" "public" {
  count = local.makes_network ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = "${var.prefix}-public" })
}

resource "aws_route" "public" {
  count = local.makes_network ? 1 : 0

  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_route_table_association" "public" {
  count = local.makes_network ? 1 : 0

  route_table_id = aws_route_table.public[0].id
  subnet_id      = aws_subnet.public[0].id
}

resource "aws_route_table" "private" {
  count = local.makes_network ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = "${var.prefix}-private" })
}

resource "aws_route" "private" {
  count = local.makes_network ? 1 : 0

  route_table_id         = aws_route_table.private[0].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[0].id
}

resource "aws_route_table_association" "private" {
  count = length(local.zones)

  route_table_id = aws_route_table.private[0].id
  subnet_id      = aws_subnet.private[count.index].id
}

# Free: witnesses and proofs do not go through NAT, nor does the table for a `push0 serve` that runs here. In a network of your own: have them.
resource "aws_vpc_endpoint" "gateway" {
  for_each = local.makes_network ? toset(["s3", "dynamodb"]) : toset([])

  vpc_id            = aws_vpc.this[0].id
  service_name      = "com.amazonaws.${data.aws_region.current.region}.${each.key}"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.private[0].id]
  tags              = merge(local.tags, { Name = "${var.prefix}-${each.key}" })
}

resource "aws_vpc_endpoint" "sqs" {
  count = var.sqs_endpoint ? 1 : 0

  vpc_id              = local.vpc
  service_name        = "com.amazonaws.${data.aws_region.current.region}.sqs"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = local.subnets
  security_group_ids  = [aws_security_group.endpoint[0].id]
  tags                = merge(local.tags, { Name = "${var.prefix}-sqs" })
}

resource "aws_security_group" "endpoint" {
  count = var.sqs_endpoint ? 1 : 0

  name        = "${var.prefix}-sqs"
  description = "SQS, for push0's workers"
  vpc_id      = local.vpc
  tags        = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "endpoint" {
  count = var.sqs_endpoint ? 1 : 0

  security_group_id            = aws_security_group.endpoint[0].id
  description                  = "HTTPS of workers"
  referenced_security_group_id = aws_security_group.workers.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

# Workers: nothing comes in, HTTPS goes out. A shell is had by SSM.
resource "aws_security_group" "workers" {
  name        = "${var.prefix}-workers"
  description = "push0's workers: nothing comes in"
  vpc_id      = local.vpc
  tags        = local.tags
}

resource "aws_vpc_security_group_egress_rule" "workers" {
  security_group_id = aws_security_group.workers.id
  description       = "HTTPS: SQS, S3, Auto Scaling, SSM"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
