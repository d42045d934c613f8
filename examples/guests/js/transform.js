// The shop's customers in JavaScript: blue's one name is green's first and last name.
//
// Values are { tag, val } as in wit/migration.wit. Ask for int8 columns with { "name": ..., "as": "text" }: a number of
// JavaScript does not hold every one of them, and the engine rounds without a word.

const manifest = {
  falkirk: 1,
  name: "shop",
  from: "1",
  to: "2",
  forward: [
    {
      table: "customer",
      columns: ["name"],
      outputs: [
        {
          table: "customer",
          same_named: true,
          computed: [{ from: ["name"], to: ["first_name", "last_name"] }],
        },
      ],
    },
  ],
  backward: [
    {
      table: "customer",
      columns: ["first_name", "last_name"],
      outputs: [
        {
          table: "customer",
          same_named: true,
          computed: [{ from: ["first_name", "last_name"], to: ["name"] }],
        },
      ],
    },
  ],
};

const text = (val) => ({ tag: "text", val });
const row = (...values) => ({ tag: "ok", val: [{ output: 0, values }] });

function split({ values: [name] }) {
  const blank = name.val.indexOf(" ");
  return blank < 0
    ? row({ tag: "null" }, text(name.val))
    : row(text(name.val.slice(0, blank)), text(name.val.slice(blank + 1)));
}

function join({ values: [first, last] }) {
  return row(text(first.tag === "null" ? last.val : `${first.val} ${last.val}`));
}

export const transform = {
  describe: () => JSON.stringify(manifest),
  forward: (table, rows) => rows.map(split),
  backward: (table, rows) => rows.map(join),
};
