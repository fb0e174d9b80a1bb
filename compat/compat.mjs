// Starts a Slipway server on the database COMPAT_DATABASE, with the key file COMPAT_KEY, and a host of catalog files, and has Backstage's own client
// call every method that it has. compat_test.go runs it for each engine.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

const cache = path.resolve(import.meta.dirname, '../.cache/compat');
const require = createRequire(path.join(cache, 'package.json'));
const { CatalogClient, CATALOG_FILTER_EXISTS } = require('@backstage/catalog-client');
const { version } = require('@backstage/catalog-client/package.json');

const component = (name, extra = '') => `apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: ${name}, title: Title of ${name}, tags: [java], annotations: {github.com/project-slug: octo/${name}}}
spec: {type: service, lifecycle: production, owner: shop${extra}}
`;

// The files that can be registered.
const files = {
  '/root.yaml': `apiVersion: backstage.io/v1alpha1
kind: Location
metadata: {name: root}
spec: {targets: [./catalog-info.yaml, ./gone.yaml]}
`,
  '/catalog-info.yaml': [
    ...Array.from({ length: 30 }, (_, i) => component(`c${String(i).padStart(2, '0')}`)),
    `apiVersion: backstage.io/v1alpha1
kind: API
metadata: {name: orders}
spec: {type: openapi, lifecycle: production, owner: shop, definition: {$text: ./openapi.yaml}}
`,
    'apiVersion: backstage.io/v1alpha1\nkind: Group\nmetadata: {name: shop}\nspec: {type: team, children: []}\n',
  ].join('---\n'),
  '/openapi.yaml': 'openapi: 3.1.0\n',
  '/second.yaml': component('second'),
  '/third.yaml': component('third'),
  '/broken.yaml': 'apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {title: x}\n',
};

const until = async (what, condition) => {
  for (const end = Date.now() + 15_000; Date.now() < end; await new Promise(r => setTimeout(r, 50))) {
    if (await condition()) return;
  }
  assert.fail(`within 15 s it did not happen that ${what}`);
};

const rejects = (promise, status, name) =>
  assert.rejects(promise, e => {
    assert.equal(e.statusCode ?? e.response?.status, status, `${e}`);
    if (name) assert.equal(e.body?.error?.name, name, `${e}`);
    return true;
  });

const collect = async stream => {
  const all = [];
  for await (const page of stream) all.push(...page);
  return all;
};

async function exercise(client, target) {
  // Locations
  const dry = await client.addLocation({ target: target('/root.yaml'), dryRun: true });
  assert.equal(dry.exists, false);
  assert.equal(dry.entities.length, 1);
  const { location, entities } = await client.addLocation({ type: 'url', target: target('/root.yaml') });
  assert.match(location.id, /^[0-9a-f-]{36}$/);
  assert.equal(entities[0].kind, 'Location');
  await until('the whole tree is there', async () => (await client.getEntityByRef('component:c29')) !== undefined);
  await rejects(client.addLocation({ target: target('/root.yaml') }), 409, 'ConflictError');
  assert.equal((await client.addLocation({ target: target('/root.yaml'), onConflict: 'refresh' })).location.id, location.id);
  await rejects(client.addLocation({ target: target('/broken.yaml') }), 400);
  const second = (await client.addLocation({ target: target('/second.yaml') })).location;

  assert.deepEqual((await client.getLocations()).items.map(l => l.id).sort(), [location.id, second.id].sort());
  assert.equal((await client.getLocationById(location.id)).target, target('/root.yaml'));
  assert.equal(await client.getLocationById('00000000-0000-0000-0000-000000000000'), undefined);
  assert.equal(await client.getLocationById('no-uuid'), undefined);
  assert.equal((await client.getLocationByRef(`url:${target('/second.yaml')}`)).id, second.id);
  assert.equal((await client.getLocationByEntity('component:default/c00')).id, location.id);
  assert.equal(await client.getLocationByEntity('component:default/none'), undefined);
  const queried = await client.queryLocations({ query: { target: target('/second.yaml') } });
  assert.deepEqual([queried.totalItems, queried.items[0].id], [1, second.id]);
  assert.equal((await collect(client.streamLocations({ limit: 1 }))).length, 2);

  // Entities by name, uid and ref
  const c00 = await client.getEntityByRef('component:default/C00');
  assert.equal(c00.metadata.annotations['backstage.io/managed-by-origin-location'], `url:${target('/root.yaml')}`);
  assert.deepEqual(c00.relations, [{ type: 'ownedBy', targetRef: 'group:default/shop' }]);
  assert.equal((await client.getEntityByName({ kind: 'API', namespace: 'default', name: 'orders' })).spec.definition, 'openapi: 3.1.0\n');
  assert.equal(await client.getEntityByRef('component:default/none'), undefined);
  const refs = Array.from({ length: 1500 }, (_, i) => `component:default/c${String(i % 40).padStart(2, '0')}`); // more than one request holds
  const found = await client.getEntitiesByRefs({ entityRefs: refs, fields: ['metadata.name'] });
  assert.equal(found.items.length, 1500);
  assert.deepEqual([found.items[29], found.items[30], found.items[40]], [{ metadata: { name: 'c29' } }, undefined, { metadata: { name: 'c00' } }]);
  const filtered = await client.getEntitiesByRefs({ entityRefs: ['component:c00', 'api:orders'], filter: { kind: 'api' } });
  assert.deepEqual(filtered.items.map(e => e?.metadata.name), [undefined, 'orders']);
  const narrowed = await client.getEntitiesByRefs({ entityRefs: ['component:c00', 'api:orders'], filter: { 'spec.owner': 'shop' }, query: { kind: 'component' } });
  assert.deepEqual(narrowed.items.map(e => e?.metadata.name), ['c00', undefined]);

  // Lists
  const all = await client.getEntities({ filter: [{ kind: ['Component', 'API'], 'metadata.tags': 'java' }, { kind: 'Group' }], fields: ['kind', 'metadata.name'] });
  assert.equal(all.items.length, 32);
  const annotated = await client.getEntities({ filter: { 'metadata.annotations.github.com/project-slug': CATALOG_FILTER_EXISTS }, order: { field: 'metadata.name', order: 'desc' }, limit: 2, offset: 1 });
  assert.deepEqual(annotated.items.map(e => e.metadata.name), ['c29', 'c28']);

  // Queries: by filter, by predicate, on and back
  for (const start of [{ filter: { kind: 'component' } }, { query: { kind: 'component' } }, { filter: { kind: 'component' }, query: { 'spec.type': { $in: ['service'] } } }]) {
    const first = await client.queryEntities({ ...start, limit: 10, orderFields: { field: 'metadata.name', order: 'asc' } });
    assert.deepEqual([first.items[0].metadata.name, first.totalItems, first.pageInfo.prevCursor], ['c00', 31, undefined]);
    const next = await client.queryEntities({ cursor: first.pageInfo.nextCursor, limit: 10, fields: ['metadata.name'] });
    assert.deepEqual([next.items[0], next.totalItems], [{ metadata: { name: 'c10' } }, 31]);
    const back = await client.queryEntities({ cursor: next.pageInfo.prevCursor, limit: 10 });
    assert.deepEqual(back.items.map(e => e.metadata.name), first.items.map(e => e.metadata.name));
  }
  const search = await client.queryEntities({ fullTextFilter: { term: 'TITLE of c1', fields: ['metadata.title'] }, totalItems: 'exclude', offset: 1 });
  assert.deepEqual([search.items.length, search.items[0].metadata.name, search.totalItems], [9, 'c11', 0]);
  const related = await client.queryEntities({ query: { $all: [{ relations: { $contains: { type: 'ownedBy', targetRef: 'group:default/shop' } } }, { $not: { kind: 'Component' } }, { 'metadata.name': { $hasPrefix: 'or' } }, { 'metadata.tags': { $exists: false } }] } });
  assert.deepEqual(related.items.map(e => e.metadata.name), ['orders']);
  await rejects(client.queryEntities({ query: { kind: { $like: 'x' } } }), 400, 'InputError');
  assert.equal((await collect(client.streamEntities({ filter: { kind: 'component' }, pageSize: 7 }))).length, 31);
  assert.equal((await collect(client.streamEntities({ query: { kind: 'component' }, pageSize: 7 }))).length, 31);

  // Facets
  assert.deepEqual((await client.getEntityFacets({ facets: ['kind', 'spec.none'], filter: { 'spec.lifecycle': 'production' } })).facets, {
    kind: [{ value: 'API', count: 1 }, { value: 'Component', count: 31 }],
    'spec.none': [],
  });
  assert.deepEqual((await client.getEntityFacets({ facets: ['metadata.tags'], query: { kind: 'component' } })).facets, { 'metadata.tags': [{ value: 'java', count: 31 }] });

  // Ancestry, refresh, validation, analysis
  const ancestors = await client.getEntityAncestors({ entityRef: 'component:default/c00' });
  assert.equal(ancestors.rootEntityRef, 'component:default/c00');
  assert.deepEqual(ancestors.items.map(i => i.parentEntityRefs), [['location:default/root'], [location.entityRef], []]);
  const itself = await client.getEntityByRef(location.entityRef);
  assert.deepEqual([itself.kind, itself.spec.target], ['Location', target('/root.yaml')]);
  await client.refreshEntity('component:default/c00');
  await rejects(client.refreshEntity('component:default/none'), 404, 'NotFoundError');
  assert.deepEqual(await client.validateEntity({ apiVersion: c00.apiVersion, kind: c00.kind, metadata: { name: 'ok' }, spec: c00.spec }, 'url:https://example.com/catalog-info.yaml'), { valid: true });
  const invalid = await client.validateEntity({ apiVersion: c00.apiVersion, kind: 'Component', metadata: { name: 'not ok' } }, 'url:https://example.com/catalog-info.yaml');
  assert.equal(invalid.valid, false);
  assert.ok(invalid.errors[0].name && invalid.errors[0].message);
  assert.equal((await client.validateEntity(c00, 'nowhere')).valid, false);
  const analysis = await client.analyzeLocation({ location: { type: 'url', target: target('/second.yaml') } });
  assert.deepEqual([analysis.existingEntityFiles[0].isRegistered, analysis.existingEntityFiles[0].entity.metadata.name, analysis.generateEntities.length], [true, 'second', 0]);
  const drafted = await client.analyzeLocation({ location: { type: 'url', target: target('/shop/new') } });
  assert.deepEqual([drafted.existingEntityFiles, drafted.generateEntities[0].entity.metadata.name], [[], 'new']);

  // Changes
  const moved = await client.updateLocation(second.id, { target: target('/third.yaml') });
  assert.equal(moved.target, target('/third.yaml'));
  await until('the new target is read', async () => (await client.getEntityByRef('component:third')) !== undefined);
  await until('the old one is an orphan', async () => (await client.getEntityByRef('component:second')).metadata.annotations['backstage.io/orphan'] === 'true');
  const orphan = await client.getEntityByRef('component:second');
  await client.removeEntityByUid(orphan.metadata.uid);
  assert.equal(await client.getEntityByRef('component:second'), undefined);
  await rejects(client.removeEntityByUid(orphan.metadata.uid), 404, 'NotFoundError');
  await client.removeLocationById(location.id);
  await rejects(client.removeLocationById(location.id), 404, 'NotFoundError');
  await until('its entities are gone', async () => (await client.getEntityByRef('component:c00')) === undefined);
}

// watched notes which methods are called from outside.
function watched(client, called) {
  return new Proxy(client, {
    get(object, name) {
      const value = object[name];
      if (typeof value !== 'function') return value;
      called.add(name);
      return value.bind(object);
    },
  });
}

// What the client has for itself.
const inner = ['constructor', 'queryEntitiesByPredicate', 'getEntityFacetsByPredicate', 'requestIgnored', 'requestRequired', 'requestOptional', 'getFilterValue'];

const freePort = () =>
  new Promise(resolve => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'slipway-compat-'));
const host = http.createServer((request, response) => {
  const text = files[request.url];
  response.writeHead(text === undefined ? 404 : 200).end(text ?? 'not found');
});
await new Promise(resolve => host.listen(0, '127.0.0.1', resolve));
const target = file => `http://127.0.0.1:${host.address().port}${file}`;
const url = `http://127.0.0.1:${await freePort()}`;

fs.writeFileSync(path.join(dir, 'slipway.yaml'), JSON.stringify({
  server: { listen: new URL(url).host },
  dataDir: path.join(dir, 'data'),
  blueprints: ['catalog'],
  fetch: { allow: [target('/*')] },
  rateLimits: { service: '100000/m' },
  databases: { main: process.env.COMPAT_DATABASE },
  secrets: { keyFile: process.env.COMPAT_KEY },
}));
const command = (...args) => execFileSync(path.join(cache, 'slipway'), [...args, '--config', path.join(dir, 'slipway.yaml')], { encoding: 'utf8' });
const { secret: token } = JSON.parse(command('token', 'create', '--admin', 'compat', '-o', 'json'));
assert.ok(token, 'a token');
const log = fs.openSync(path.join(dir, 'log'), 'w');
const slipway = spawn(path.join(cache, 'slipway'), ['serve', '--config', path.join(dir, 'slipway.yaml')], { stdio: ['ignore', log, log] });
try {
  await until('the server answers', async () => {
    assert.equal(slipway.exitCode, null, 'the server ended');
    return (await fetch(`${url}/readyz`).catch(() => ({}))).ok;
  });
  const called = new Set();
  const client = new CatalogClient({
    discoveryApi: { getBaseUrl: async () => `${url}/api/catalog` },
    fetchApi: { fetch: (input, init) => fetch(input, { ...init, headers: { ...init?.headers, Authorization: `Bearer ${token}` } }) },
  });
  await exercise(watched(client, called), target);
  const missing = Object.getOwnPropertyNames(CatalogClient.prototype).filter(name => !inner.includes(name) && !called.has(name));
  assert.deepEqual(missing, [], 'methods of the client that were not called');
  console.log(`compat: @backstage/catalog-client ${version}: all ${called.size} methods work`);
} catch (error) {
  console.error(fs.readFileSync(path.join(dir, 'log'), 'utf8').split('\n').slice(-20).join('\n'));
  console.error(error);
  process.exitCode = 1;
} finally {
  const ended = new Promise(resolve => slipway.once('exit', resolve));
  if (slipway.exitCode === null) {
    slipway.kill();
    await ended;
  }
  host.close();
  host.closeAllConnections();
  fs.rmSync(dir, { recursive: true, force: true });
}
