-- The shop in PostgreSQL. The catalogue (products, offers) is owned here and edited here. Everything else is a copy
-- that the sink writes from the log: each row carries the version of the event it came from, and only a higher
-- version replaces it. There are no foreign keys between what comes from different topics, because the topics
-- arrive in no common order.

CREATE SEQUENCE product_versions AS bigint;
COMMENT ON SEQUENCE product_versions IS 'One sequence for all products, so that a product deleted and made again is newer than its old self.';

CREATE TABLE products (
  id          text        PRIMARY KEY CHECK (id <> '' AND length(id) <= 64),
  title       text        NOT NULL CHECK (title <> '' AND length(title) <= 300),
  description text        NOT NULL DEFAULT '',
  category    text        NOT NULL DEFAULT '',
  attributes  jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
  version     bigint      NOT NULL,
  update_time timestamptz NOT NULL DEFAULT now(),
  deleted_at  timestamptz
);
COMMENT ON TABLE  products             IS 'What can be sold. Sellers and imports write here; a change of an offer is a change of its product.';
COMMENT ON COLUMN products.id          IS 'The shop''s own ID, at most 64 characters.';
COMMENT ON COLUMN products.title       IS 'What customers see first, at most 300 characters.';
COMMENT ON COLUMN products.description IS 'Plain text.';
COMMENT ON COLUMN products.category    IS 'Path of the category, parts separated by " > ".';
COMMENT ON COLUMN products.attributes  IS 'A flat object of further properties, e.g. {"colour": "blue"}.';
COMMENT ON COLUMN products.version     IS 'Set by a trigger from one sequence on every write, also when an offer changes. Never set it yourself.';
COMMENT ON COLUMN products.update_time IS 'When the version was made.';
COMMENT ON COLUMN products.deleted_at  IS 'When it was taken off sale for good; NULL while it may be sold.';
CREATE INDEX products_category ON products (category) WHERE deleted_at IS NULL;

CREATE TABLE offers (
  sku         text    PRIMARY KEY CHECK (sku ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  product_id  text    NOT NULL REFERENCES products (id) ON DELETE CASCADE,
  seller_id   text    NOT NULL CHECK (seller_id <> '' AND length(seller_id) <= 128),
  price_minor bigint  NOT NULL CHECK (price_minor > 0),
  currency    char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  active      boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE  offers             IS 'Who sells a product at what price. Each offer is a SKU of one seller; orders are priced from here.';
COMMENT ON COLUMN offers.sku         IS 'The key of its stock; letters, digits and ._-, at most 64.';
COMMENT ON COLUMN offers.product_id  IS 'The product that is offered.';
COMMENT ON COLUMN offers.seller_id   IS 'The seller: the subject of their token. Only they move this SKU''s stock.';
COMMENT ON COLUMN offers.price_minor IS 'Price of one unit in the currency''s smallest unit (cents for USD).';
COMMENT ON COLUMN offers.currency    IS 'ISO 4217, three capital letters.';
COMMENT ON COLUMN offers.active      IS 'False: not on sale now.';
CREATE INDEX offers_product ON offers (product_id);
CREATE INDEX offers_seller ON offers (seller_id);

CREATE FUNCTION stamp_product() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.version := nextval('product_versions');
  NEW.update_time := now();
  RETURN NEW;
END $$;
COMMENT ON FUNCTION stamp_product() IS 'Gives every write of a product the next version.';
CREATE TRIGGER products_stamp BEFORE INSERT OR UPDATE ON products FOR EACH ROW EXECUTE FUNCTION stamp_product();

CREATE FUNCTION touch_product() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    UPDATE products SET version = version WHERE id = OLD.product_id;
  END IF;
  IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.product_id <> OLD.product_id) THEN
    UPDATE products SET version = version WHERE id = NEW.product_id;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION touch_product() IS 'Makes a change of an offer a new version of its product, of both products when it moves.';
CREATE TRIGGER offers_touch AFTER INSERT OR UPDATE OR DELETE ON offers FOR EACH ROW EXECUTE FUNCTION touch_product();

CREATE TABLE orders (
  id                uuid        PRIMARY KEY,
  user_id           text        NOT NULL,
  status            text        NOT NULL,
  reason            text        NOT NULL DEFAULT '',
  currency          text        NOT NULL,
  total_minor       bigint      NOT NULL CHECK (total_minor >= 0),
  contact_email     text        NOT NULL DEFAULT '',
  contact_phone     text        NOT NULL DEFAULT '',
  place_fingerprint bytea,
  place_time        timestamptz NOT NULL,
  update_time       timestamptz NOT NULL,
  version           bigint      NOT NULL CHECK (version > 0)
) WITH (fillfactor = 80);
COMMENT ON TABLE  orders                   IS 'Every order as its newest event says. Written by the sink from order.events; kept when the order has left the processor''s table.';
COMMENT ON COLUMN orders.id                IS 'UUIDv5 of the user and the request that made the order.';
COMMENT ON COLUMN orders.user_id           IS 'Whose order it is.';
COMMENT ON COLUMN orders.status            IS 'OrderStatus without its prefix: RESERVING, PAYMENT_PENDING, PAID, CANCELLING, REJECTED, CANCELLED, PAYMENT_FAILED, ...';
COMMENT ON COLUMN orders.reason            IS 'OrderReason without its prefix: why it ended, or is ending, without a sale; empty otherwise.';
COMMENT ON COLUMN orders.currency          IS 'ISO 4217; one per order.';
COMMENT ON COLUMN orders.total_minor       IS 'The sum of the lines'' amounts in the currency''s smallest unit.';
COMMENT ON COLUMN orders.contact_email     IS 'Where to tell the customer; may be empty.';
COMMENT ON COLUMN orders.contact_phone     IS 'E.164; may be empty.';
COMMENT ON COLUMN orders.place_fingerprint IS 'SHA-256 of what the client sent to place it, so that a repeat after years is told from another order under the same request_id; NULL when no event carried it.';
COMMENT ON COLUMN orders.place_time        IS 'When the log took the order.';
COMMENT ON COLUMN orders.update_time       IS 'When the log took what caused this version.';
COMMENT ON COLUMN orders.version           IS 'Counts the order''s events from 1; only a higher one replaces the row.';
CREATE INDEX orders_by_user ON orders (user_id, place_time DESC, id);
CREATE INDEX orders_by_time ON orders (place_time DESC, id);
CREATE INDEX orders_by_status ON orders (status, place_time DESC, id);

CREATE TABLE order_lines (
  order_id         uuid   NOT NULL,
  line             int    NOT NULL CHECK (line > 0),
  sku              text   NOT NULL,
  product_id       text   NOT NULL,
  seller_id        text   NOT NULL,
  title            text   NOT NULL,
  quantity         bigint NOT NULL CHECK (quantity > 0),
  currency         text   NOT NULL,
  unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),
  amount_minor     bigint NOT NULL CHECK (amount_minor >= 0),
  status           text   NOT NULL,
  reason           text   NOT NULL DEFAULT '',
  available        bigint NOT NULL DEFAULT 0,
  version          bigint NOT NULL,
  PRIMARY KEY (order_id, line)
) WITH (fillfactor = 80);
COMMENT ON TABLE  order_lines                  IS 'The lines of every order, replaced together with it.';
COMMENT ON COLUMN order_lines.order_id         IS 'orders.id.';
COMMENT ON COLUMN order_lines.line             IS 'From 1, in the order the client gave.';
COMMENT ON COLUMN order_lines.sku              IS 'What was ordered: offers.sku at that time.';
COMMENT ON COLUMN order_lines.product_id       IS 'The offer''s product at that time.';
COMMENT ON COLUMN order_lines.seller_id        IS 'The offer''s seller at that time.';
COMMENT ON COLUMN order_lines.title            IS 'The product''s title at that time.';
COMMENT ON COLUMN order_lines.quantity         IS 'Units.';
COMMENT ON COLUMN order_lines.currency         IS 'The order''s, repeated for analysts.';
COMMENT ON COLUMN order_lines.unit_price_minor IS 'Price of one unit at that time, in the currency''s smallest unit.';
COMMENT ON COLUMN order_lines.amount_minor     IS 'quantity times unit_price_minor.';
COMMENT ON COLUMN order_lines.status           IS 'LineStatus without its prefix: ASKED, HELD, REFUSED, RELEASED, SHIPPED.';
COMMENT ON COLUMN order_lines.reason           IS 'OrderReason without its prefix, when the line is REFUSED.';
COMMENT ON COLUMN order_lines.available        IS 'How many units were available when the line was refused.';
COMMENT ON COLUMN order_lines.version          IS 'The version of the order that this line belongs to.';
CREATE INDEX order_lines_by_sku ON order_lines (sku, order_id);

CREATE TABLE payments (
  order_id       uuid   PRIMARY KEY,
  intent_id      text   NOT NULL DEFAULT '',
  status         text   NOT NULL DEFAULT '',
  method         text   NOT NULL DEFAULT '',
  decline_code   text   NOT NULL DEFAULT '',
  currency       text   NOT NULL,
  charged_minor  bigint NOT NULL DEFAULT 0 CHECK (charged_minor >= 0),
  refunded_minor bigint NOT NULL DEFAULT 0 CHECK (refunded_minor >= 0),
  version        bigint NOT NULL
) WITH (fillfactor = 80);
COMMENT ON TABLE  payments                IS 'What is known of each order''s money, replaced together with the order.';
COMMENT ON COLUMN payments.order_id       IS 'orders.id.';
COMMENT ON COLUMN payments.intent_id      IS 'The gateway''s ID of the payment intent; empty until it exists.';
COMMENT ON COLUMN payments.status         IS 'PaymentStatus without its prefix: REQUESTED, CREATED, PENDING, SUCCEEDED, DECLINED, CANCELED, REFUNDING, REFUNDED.';
COMMENT ON COLUMN payments.method         IS 'The gateway''s ID of the payment method that the client chose. Never a card number.';
COMMENT ON COLUMN payments.decline_code   IS 'The gateway''s code of a decline or refusal.';
COMMENT ON COLUMN payments.currency       IS 'ISO 4217.';
COMMENT ON COLUMN payments.charged_minor  IS 'What the gateway took, in the currency''s smallest unit.';
COMMENT ON COLUMN payments.refunded_minor IS 'What was given back.';
COMMENT ON COLUMN payments.version        IS 'The version of the order that this row belongs to.';
CREATE INDEX payments_by_intent ON payments (intent_id) WHERE intent_id <> '';

CREATE TABLE payment_attempts (
  event_id     text        PRIMARY KEY,
  order_id     uuid        NOT NULL,
  step_number  int         NOT NULL,
  step         text        NOT NULL,
  outcome      text        NOT NULL,
  intent_id    text        NOT NULL DEFAULT '',
  refund_id    text        NOT NULL DEFAULT '',
  decline_code text        NOT NULL DEFAULT '',
  message      text        NOT NULL DEFAULT '',
  currency     text        NOT NULL DEFAULT '',
  amount_minor bigint      NOT NULL DEFAULT 0,
  result_time  timestamptz NOT NULL
);
COMMENT ON TABLE  payment_attempts              IS 'Every answer of the gateway, one row each, never changed. Written by the sink from payment.results.';
COMMENT ON COLUMN payment_attempts.event_id     IS 'ce_id of the result: the same on every redelivery.';
COMMENT ON COLUMN payment_attempts.order_id     IS 'Whose money.';
COMMENT ON COLUMN payment_attempts.step_number  IS 'Counts the order''s requests to the gateway from 1.';
COMMENT ON COLUMN payment_attempts.step         IS 'PaymentStep without its prefix: CREATE, CONFIRM, POLL, CANCEL, REFUND.';
COMMENT ON COLUMN payment_attempts.outcome      IS 'PaymentOutcome without its prefix: CREATED, PENDING, SUCCEEDED, DECLINED, CANCELED, REFUNDED, UNAVAILABLE, REFUSED.';
COMMENT ON COLUMN payment_attempts.intent_id    IS 'The gateway''s ID of the payment intent.';
COMMENT ON COLUMN payment_attempts.refund_id    IS 'The gateway''s ID of the refund, for REFUND.';
COMMENT ON COLUMN payment_attempts.decline_code IS 'The gateway''s code of a decline or refusal.';
COMMENT ON COLUMN payment_attempts.message      IS 'One sentence for people.';
COMMENT ON COLUMN payment_attempts.currency     IS 'ISO 4217; empty where no money moved.';
COMMENT ON COLUMN payment_attempts.amount_minor IS 'Charged (SUCCEEDED) or given back (REFUNDED), in the currency''s smallest unit.';
COMMENT ON COLUMN payment_attempts.result_time  IS 'When the log took the result.';
CREATE INDEX payment_attempts_by_order ON payment_attempts (order_id, step_number);

CREATE TABLE stock (
  sku           text        PRIMARY KEY,
  on_hand       bigint      NOT NULL CHECK (on_hand >= 0),
  reserved      bigint      NOT NULL CHECK (reserved >= 0 AND reserved <= on_hand),
  available     bigint      GENERATED ALWAYS AS (on_hand - reserved) STORED,
  stock_version bigint      NOT NULL,
  update_time   timestamptz NOT NULL,
  version       bigint      NOT NULL CHECK (version > 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE  stock               IS 'Each SKU''s ledger as its newest event says. Written by the sink from inventory.events.';
COMMENT ON COLUMN stock.sku           IS 'offers.sku.';
COMMENT ON COLUMN stock.on_hand       IS 'Units in the warehouse.';
COMMENT ON COLUMN stock.reserved      IS 'Units held for orders that are not shipped yet.';
COMMENT ON COLUMN stock.available     IS 'on_hand - reserved, never negative.';
COMMENT ON COLUMN stock.stock_version IS 'Counts the seller''s changes only: what if_version is compared with.';
COMMENT ON COLUMN stock.update_time   IS 'When the log took the event of this version.';
COMMENT ON COLUMN stock.version       IS 'Counts every event of the SKU; only a higher one replaces the row.';

CREATE TABLE sink_offsets (
  consumer_group text   NOT NULL,
  topic          text   NOT NULL,
  partition      int    NOT NULL,
  next_offset    bigint NOT NULL CHECK (next_offset >= 0),
  PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE  sink_offsets                IS 'How far the sink has written each partition, changed in the same transaction as the rows themselves. This, not Kafka, is where it goes on.';
COMMENT ON COLUMN sink_offsets.consumer_group IS 'The sink''s consumer group, with the prefix.';
COMMENT ON COLUMN sink_offsets.topic          IS 'Name of the topic, with the prefix.';
COMMENT ON COLUMN sink_offsets.partition      IS 'Number of the partition.';
COMMENT ON COLUMN sink_offsets.next_offset    IS 'Every record below it, transaction markers included, is in these tables.';
